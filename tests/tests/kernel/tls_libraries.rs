//! The libraries that have probes: what the operator is told of them, and what the probes cost.

use std::fs;
use std::path::PathBuf;

use segue_tests::agent::SOON;
use segue_tests::kernel::reads_inside_tls;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::World;
use serde_json::Value;

use crate::tls::{self, libssl};

/// Shakes hands with itself in memory, time and again, with the library that the dynamic linker finds.
const TALKER: &str = "
import ssl
print([line.split()[-1] for line in open('/proc/self/maps') if '/libssl.so' in line][0], flush=True)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
while True:
    talk = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    try:
        talk.do_handshake()
    except ssl.SSLWantReadError:
        pass
";

/// A copy of OpenSSL's library, so that what is done to it is nobody else's business.
fn copy(world: &World) -> PathBuf {
    let original = libssl(world);
    let name = original.rsplit('/').next().expect("a file's name");
    let library = world.directory().join(name);
    fs::copy(&original, &library).expect("a copy");
    library
}

/// What `segue status` says of libraries: each one's path and state.
fn libraries(status: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let libraries = status["tls"].as_array().expect("a list of libraries");
    libraries.iter().map(|library| (text(&library["path"]), text(&library["state"]))).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_probes_cost_is_timed_like_all_programs() {
    let world = World::new();
    let library = copy(&world).display().to_string();
    let agent = tls::agent_of(&world, &library, &[]);
    if !reads_inside_tls() {
        assert!(libraries(&agent.status()).is_empty());
        return;
    }
    let place = format!("LD_LIBRARY_PATH={}", world.directory().display());
    let talker = world.start("env", &[&place, "python3", "-c", TALKER]);
    eventually("a program that uses the copy", SOON, || {
        let said = talker.output();
        if said.contains(&library) { Ok(()) } else { Err(said) }
    });
    let overhead = agent.overhead();
    let programs = overhead["programs"].as_array().expect("a list of programs");
    let handshakes = programs
        .iter()
        .find(|program| program["name"] == "segue_tls_handshake")
        .unwrap_or_else(|| panic!("no program at handshakes: {overhead:#}"));
    assert_eq!(handshakes["hook"], "tls_call");
    assert!(handshakes["runs"].as_u64() > Some(0), "{overhead:#}");
    assert!(handshakes["run_time_ns"].as_u64() > Some(0), "{overhead:#}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_library_that_was_replaced_is_said_to_be() {
    let world = World::new();
    let library = copy(&world);
    let path = library.display().to_string();
    let agent = tls::agent_of(&world, &path, &[]);
    if !reads_inside_tls() {
        return;
    }
    assert_eq!(libraries(&agent.status()), [(path.clone(), "read".to_owned())]);
    // As a package's upgrade does: a new file is moved into the place of the old one.
    let new = library.with_extension("new");
    fs::copy(&library, &new).expect("a copy");
    fs::rename(&new, &library).expect("a new library");
    assert_eq!(libraries(&agent.status()), [(path.clone(), "replaced".to_owned())]);
    let said = agent.start_command(&["status"]).finish();
    assert_eq!(said.status.code(), Some(3), "{}", said.stdout);
    assert!(
        said.stdout.contains("was replaced") && said.stdout.contains("restart the agent"),
        "{}",
        said.stdout
    );
    fs::remove_file(&library).expect("no library");
    assert_eq!(libraries(&agent.status()), [(path, "gone".to_owned())]);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn who_talks_inside_tls_does_not_notice_agents_that_are_killed_and_come_again() {
    const KILLED: u32 = 3;
    let world = World::new();
    let web = Service::tcp("shop/web").at("198.18.0.10:443").to_address("127.0.0.1:8443");
    let mut agent = tls::agent(&world, &[web]);
    let _nginx = tls::nginx(&world);
    let over = world.directory().join("over");
    // Ends with an error at the first request that is not answered well.
    let script = format!(
        "
import http.client, os, ssl
context = ssl._create_unverified_context()
while not os.path.exists({over:?}):
    connection = http.client.HTTPSConnection('198.18.0.10', 443, timeout=60, context=context)
    for n in range(50):
        connection.request('GET', '/')
        assert connection.getresponse().read() == b'fine\\n'
    connection.close()
"
    );
    let clients: Vec<_> = (0..3).map(|_| world.start("python3", &["-c", &script])).collect();
    for _ in 0..KILLED {
        // In the middle of calls of OpenSSL, as far as chance has it.
        agent.kill();
        agent.restart();
    }
    fs::write(&over, "").expect("a file");
    for client in clients {
        client.finish().expect_success();
    }
    if reads_inside_tls() {
        assert!(agent.metrics().sum(tls::SERVER, &[]) > 0.0, "the last one reads");
    }
}
