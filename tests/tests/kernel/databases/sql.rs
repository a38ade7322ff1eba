//! PostgreSQL and MySQL against what pgbench, psql, mysqlslap and their servers say.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use segue_tests::agent::SOON;
use segue_tests::program::{Finished, Program};
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;

use super::{CLIENT, Counts, await_both, counts, databases, sum_ns};

/// PostgreSQL in the managed cgroup, on 127.0.0.1:5432. It refuses to be root's.
fn postgresql(world: &World) -> Program {
    let data = world.directory().join("postgresql");
    fs::create_dir_all(&data).expect("a directory");
    fs::set_permissions(world.directory(), fs::Permissions::from_mode(0o755)).expect("others may pass");
    let data = data.display().to_string();
    let newest = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten();
    let bin = newest.map(|entry| entry.path().join("bin")).max().expect("a version of PostgreSQL");
    let program = |name: &str| bin.join(name).display().to_string();
    let as_user = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    world.run_outside("chown", &["postgres:", &data]);
    let init = program("initdb");
    let arguments = [init.as_str(), "-D", &data, "-A", "trust", "-N", "--no-instructions"];
    world.run_outside("setpriv", &[&as_user[..], &arguments].concat());
    let server = program("postgres");
    let arguments = [
        server.as_str(),
        "-D",
        &data,
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
    ];
    let postgresql = world.start("setpriv", &[&as_user[..], &arguments].concat());
    world.await_listener("127.0.0.1:5432", &postgresql);
    postgresql
}

fn orders() -> Service {
    Service::tcp("shop/orders").at("198.18.0.12:5432").to_address("127.0.0.1:5432")
}

fn psql(world: &World, statements: &[&str]) -> String {
    let mut arguments = vec!["-h", "198.18.0.12", "-U", "postgres", "-Atq"];
    arguments.extend(statements.iter().flat_map(|statement| ["-c", *statement]));
    world.run("psql", &arguments).stdout
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn postgresql_requests_are_what_pgbench_counts() {
    let world = World::new();
    let agent = world.agent(&[orders()]);
    let _postgresql = postgresql(&world);
    psql(&world, &["create table t (a int primary key, b int)", "insert into t values (1, 1)"]);
    let script = world.directory().join("script");
    fs::write(&script, "BEGIN;\nUPDATE t SET b = b + 1 WHERE a = 1;\nSELECT b FROM t WHERE a = 1;\nEND;\n")
        .expect("a script");
    let script = script.display().to_string();
    for mode in ["simple", "extended", "prepared"] {
        let arguments = [
            "-h",
            "198.18.0.12",
            "-U",
            "postgres",
            "-n",
            "-M",
            mode,
            "-c",
            "4",
            "-t",
            "100",
            "-f",
            &script,
            "postgres",
        ];
        let said = world.run("pgbench", &arguments).expect_success();
        assert!(said.contains("actually processed: 400/400"), "{said}");
    }
    await_both(
        &agent,
        &counts(&[
            ("CREATE", "00000", 1),
            ("INSERT", "00000", 1),
            // Of two modes by their statement; of the third, only each client's four preparations are.
            ("BEGIN", "00000", 804),
            ("UPDATE", "00000", 804),
            ("SELECT", "00000", 804),
            ("COMMIT", "00000", 804),
            ("EXECUTE", "00000", 1_600),
        ]),
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn postgresql_errors_long_answers_copies_and_durations_are_what_the_client_saw() {
    let world = World::new();
    let agent = world.agent(&[orders()]);
    let _postgresql = postgresql(&world);
    let said = psql(
        &world,
        &[
            "create table t (a int primary key)",
            "insert into t values (1)",
            "insert into t values (1)",
            "select 1/0",
            "select * from nothing",
            "copy t to stdout",
            "select count(*) from t",
        ],
    );
    assert_eq!(said, "1\n1\n");
    let long = psql(&world, &["select generate_series(1, 300000)"]);
    assert_eq!(long.lines().count(), 300_000);
    let mut expected = counts(&[
        ("CREATE", "00000", 1),
        ("INSERT", "00000", 1),
        ("INSERT", "23000", 1),
        ("SELECT", "22000", 1),
        ("SELECT", "42000", 1),
        ("COPY", "00000", 1),
        ("SELECT", "00000", 2),
    ]);
    await_both(&agent, &expected);
    let before = sum_ns(&agent, "postgresql");
    let began = Instant::now();
    let slow: Vec<&str> = std::iter::repeat_n("select pg_sleep(0.04)", 10).collect();
    psql(&world, &slow);
    let waited = u64::try_from(began.elapsed().as_nanos()).expect("less than centuries");
    *expected.get_mut(&("SELECT".into(), "00000".into())).expect("it is there") += 10;
    await_both(&agent, &expected);
    let took = sum_ns(&agent, "postgresql") - before;
    assert!((10 * 40_000_000..=waited).contains(&took), "{took} ns of the {waited} that psql ran");
    let flows = agent.flows();
    let requests = &flows[0]["requests"][0];
    assert_eq!((&requests["protocol"], &requests["errors"]), (&"postgresql".into(), &3.into()), "{flows:#?}");
}

fn stock() -> Service {
    Service::tcp("shop/stock").at("198.18.0.13:3306").to_address("127.0.0.1:3306")
}

/// MariaDB in the managed cgroup, on 127.0.0.1:3306, with nobody's rights checked.
fn mariadb(world: &World) -> Program {
    let data = world.directory().join("mariadb");
    fs::create_dir_all(&data).expect("a directory");
    let (data, socket) =
        (format!("--datadir={}", data.display()), format!("--socket={}/socket", data.display()));
    let arguments = [
        "--no-defaults",
        "--user=root",
        &data,
        &socket,
        "--port=3306",
        "--bind-address=127.0.0.1",
        "--skip-grant-tables",
        "--innodb-log-file-size=4M",
        "--innodb-flush-log-at-trx-commit=0",
    ];
    let mariadb = world.start("mariadbd", &arguments);
    world.await_listener("127.0.0.1:3306", &mariadb);
    mariadb
}

fn mariadb_client(world: &World, more: &[&str]) -> Finished {
    let arguments = ["--no-defaults", "-h", "198.18.0.13", "-u", "root", "-BN"];
    world.run("mariadb", &[&arguments[..], more].concat())
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn mysql_requests_are_what_mysqlslap_and_the_server_count() {
    let world = World::new();
    let agent = world.agent(&[stock()]);
    let _mariadb = mariadb(&world);
    for statement in [
        "create database d",
        "create table d.t(a int primary key)",
        "insert into d.t values (1)",
        "insert into d.t values (1)",
        "select * from d.nothing",
        "update d.t set a = 2",
        "select sleep(0.04)",
    ] {
        mariadb_client(&world, &["-e", statement]);
    }
    let arguments = [
        "--no-defaults",
        "--user=root",
        "--host=198.18.0.13",
        "--concurrency=4",
        "--iterations=1",
        "--number-of-queries=2000",
        "--create-schema=d",
        "--query=select a from t where a = 2",
    ];
    let said = world.run("mysqlslap", &arguments).expect_success();
    assert!(said.contains("queries per client: 500"), "{said}");
    await_both(
        &agent,
        &counts(&[
            ("CREATE", "0", 2),
            ("INSERT", "0", 1),
            ("INSERT", "1062", 1),
            ("SELECT", "1146", 1),
            ("UPDATE", "0", 1),
            ("SELECT", "0", 2_001),
        ]),
    );
    let slept = sum_ns(&agent, "mysql");
    assert!(slept >= 40_000_000, "{slept}");
    let flows = agent.flows();
    assert_eq!(flows[0]["requests"][0]["errors"], 2, "{flows:#?}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn compressed_mysql_is_given_up_and_says_so() {
    let world = World::new();
    let agent = world.agent(&[stock()]);
    let _mariadb = mariadb(&world);
    let said = mariadb_client(&world, &["--compress", "-e", "select 41 + 1"]).expect_success();
    assert_eq!(said, "42\n");
    eventually("both sides to say so", SOON, || {
        let reasons = agent.unparsed();
        if reasons == BTreeMap::from([("opaque".to_owned(), 2)]) {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    });
    assert_eq!(databases(&agent, CLIENT), Counts::new());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn encrypted_postgresql_is_given_up_and_says_so() {
    let world = World::new();
    let agent = world.agent(&[orders()]);
    // Says yes to encryption, and then nothing that is read.
    let script = "
import socket
listener = socket.create_server(('127.0.0.1', 5432))
while True:
    s, _ = listener.accept()
    if s.recv(8) == b'\\0\\0\\0\\x08\\x04\\xd2\\x16/':
        s.sendall(b'S')
        s.recv(65536)
    s.close()
";
    let server = world.start("python3", &["-c", script]);
    world.await_listener("127.0.0.1:5432", &server);
    let said = world.run("psql", &["-h", "198.18.0.12", "-U", "postgres", "-c", "select 1"]);
    assert!(!said.status.success(), "{}", said.stdout);
    eventually("both sides to say so", SOON, || {
        let reasons = agent.unparsed();
        if reasons.get("opaque").is_some_and(|count| *count >= 2) {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    });
    assert_eq!(databases(&agent, CLIENT), Counts::new());
}
