//! `segue flows` with its selectors, against connections and requests that really happen.

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::errors;
use segue_tests::program::{Finished, Program};
use segue_tests::service::Service;
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";
const CART: &str = "198.18.0.11:80";
const ALIVE: &str = "127.0.0.1:8081";
const DEAD: &str = "127.0.0.1:8082";

/// Starts an agent that has `--record-flows` after its other arguments.
const RECORDING: [&str; 4] = ["sh", "-c", "exec \"$@\" --record-flows", "--"];

fn services() -> [Service; 2] {
    [
        Service::tcp("shop/payment").at(PAYMENT).to_address(ALIVE),
        Service::tcp("shop/cart").at(CART).to_address(DEAD),
    ]
}

fn flows(agent: &Agent<'_>, words: &str) -> Finished {
    let words: Vec<_> = std::iter::once("flows").chain(words.split_whitespace()).collect();
    agent.start_command(&words).finish()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

fn name(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Service and event of every record.
fn told(text: &str) -> Vec<(String, String)> {
    let records = objects(text).into_iter().filter(|line| line["memory"].is_null());
    records.map(|record| (name(&record, "service"), name(&record, "event"))).collect()
}

fn await_lines(program: &Program, count: usize) -> Vec<(String, String)> {
    eventually(&format!("{count} events"), SOON, || {
        let lines = told(&program.output());
        if lines.len() >= count { Ok(lines) } else { Err(program.output()) }
    })
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_follower_is_told_of_what_it_selected_and_of_nothing_else() {
    let world = World::new();
    let _server = world.tcp("payment", ALIVE);
    let agent = world.agent(&services());
    let mut client = world.client();
    let refusals =
        agent.start_command(&["flows", "-f", "-o", "json", "--to-service", "cart", "--verdict", "refused"]);
    let others = agent.start_command(&[
        "flows",
        "-f",
        "-o",
        "json",
        "--not",
        "--to-service",
        "cart",
        "--not",
        "--verdict",
        "opened",
    ]);
    eventually_equal("somebody to follow", SOON, &true, || agent.status()["data_plane"]["following"] == true);
    // A reader that has just come may still be on its way.
    eventually("both to be told", SOON, || {
        client.greetings(PAYMENT, 1);
        assert_eq!(errors(&client.attempts(CART, 1)).len(), 1);
        match (told(&refusals.output()).is_empty(), told(&others.output()).is_empty()) {
            (false, false) => Ok(()),
            _ => Err(format!("{}\n{}", refusals.output(), others.output())),
        }
    });
    let (before, closed_before) = (told(&refusals.output()).len(), told(&others.output()).len());
    client.greetings(PAYMENT, 5);
    assert_eq!(errors(&client.attempts(CART, 7)).len(), 7);
    let refused = await_lines(&refusals, before + 7);
    assert!(refused.iter().all(|told| *told == ("shop/cart".to_owned(), "failed".to_owned())), "{refused:?}");
    let closed = await_lines(&others, closed_before + 5);
    assert!(
        closed.iter().all(|told| *told == ("shop/payment".to_owned(), "closed".to_owned())),
        "{closed:?}"
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn requests_are_shown_one_by_one_to_who_asks_for_them() {
    let world = World::new();
    let _nginx = crate::requests::nginx_in(&world, "web.service");
    // The client's cgroup is there before the agent looks who is there.
    let _client = world.client();
    let agent = world.agent(&services());
    let all =
        agent.start_command(&["flows", "-f", "-o", "json", "--requests", "--not", "--verdict", "opened"]);
    let errors =
        agent.start_command(&["flows", "-f", "-o", "json", "--status", "5xx", "--verdict", "request"]);
    let plain = agent.start_command(&["flows", "-f"]);
    let ask = |path: &str| {
        world.run("curl", &["-s", "-o", "/dev/null", &format!("http://{PAYMENT}{path}")]).expect_success();
    };
    // A reader that has just come may still be on its way.
    eventually("all to be told", SOON, || {
        ask("/broken");
        let seen = [&all, &errors, &plain].map(|reader| reader.output().lines().count());
        if seen.iter().all(|&count| count > 0) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let before = told(&errors.output()).len();
    ask("/");
    ask("/missing");
    ask("/broken");
    let failed = await_lines(&errors, before + 1);
    assert!(
        failed.iter().all(|told| *told == ("shop/payment".to_owned(), "request".to_owned())),
        "{failed:?}"
    );
    let is_of = |record: &Value, event: &str, status: &str| {
        record["event"] == event
            && record["request"]["status"] == status
            && record["request"]["operation"] == "GET"
    };
    let records = eventually("both sides of each", SOON, || {
        let records = objects(&all.output());
        let are_there = ["request", "served"].iter().all(|event| {
            ["200", "404", "503"]
                .iter()
                .all(|status| records.iter().any(|record| is_of(record, event, status)))
        });
        if are_there { Ok(records) } else { Err(all.output()) }
    });
    let one = |event| records.iter().find(|record| is_of(record, event, "404")).expect("looked for above");
    let (asked, served) = (one("request"), one("served"));
    assert_eq!((name(asked, "service"), name(served, "service")), ("shop/payment".into(), "host/web".into()));
    assert_eq!(asked["client"]["name"], "checkout");
    assert_eq!((name(asked, "requested"), name(asked, "backend")), (PAYMENT.into(), ALIVE.into()));
    assert_eq!(
        asked["request"]["peer"], served["request"]["peer"],
        "the same connection, seen from both ends"
    );
    assert!(asked["duration_ns"].as_u64() >= served["duration_ns"].as_u64(), "{asked} {served}");
    assert!(records.iter().any(|record| record["event"] == "closed"), "connections as well");
    eventually("connections alone to who asked for no more", SOON, || {
        let text = plain.output();
        assert!(!text.contains("GET"), "{text}");
        if text.contains("closed fin") { Ok(()) } else { Err(text) }
    });
    // Nobody is left who follows: nothing is told any more.
    drop((all, errors, plain));
    eventually_equal("nobody to follow", SOON, &false, || agent.status()["data_plane"]["following"] == true);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_agent_that_records_remembers_and_one_that_does_not_says_so() {
    let world = World::new();
    let _server = world.tcp("payment", ALIVE);
    let mut agent = world.agent(&services());
    let mut client = world.client();
    client.greetings(PAYMENT, 3);
    let finished = flows(&agent, "--last 10");
    assert_eq!(finished.stdout, "");
    assert!(finished.stderr.contains("single connections were never recorded"), "{}", finished.stderr);
    agent.terminate();
    drop(agent);

    let agent = world.agent_by(&RECORDING, &services());
    client.greetings(PAYMENT, 3);
    client.attempts(CART, 2);
    eventually("what happened to be remembered", SOON, || {
        let lines = told(&flows(&agent, "--since 5m -o json --to-service shop/*").expect_success());
        let count = |event: &str| lines.iter().filter(|(_, told)| told == event).count();
        let counts = (count("opened"), count("closed"), count("failed"));
        if counts == (3, 3, 2) { Ok(()) } else { Err(format!("{lines:?}")) }
    });
    let failed = told(&flows(&agent, "--last 1 --verdict failed -o json").expect_success());
    assert_eq!(failed, [("shop/cart".to_owned(), "failed".to_owned())]);
    assert_eq!(told(&flows(&agent, "--until 1h -o json").expect_success()), []);
    let table = flows(&agent, "--last 3 -o table --to-service cart").expect_success();
    assert_eq!(table.matches("refused").count(), 2, "{table}");
    let dict = flows(&agent, "--last 3 -o dict --to-service cart").expect_success();
    assert_eq!(dict.matches("REASON: refused").count(), 2, "{dict}");
    // What is asked for of the past comes first, then what happens.
    let follower = agent.start_command(&["flows", "-f", "--last", "2", "-o", "json", "--to-service", "cart"]);
    await_lines(&follower, 2);
    client.attempts(CART, 1);
    assert_eq!(await_lines(&follower, 3).len(), 3);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn totals_are_selected_by_ends_outcomes_and_answers() {
    let world = World::new();
    let _server = world.http("payment", ALIVE);
    let agent = world.agent(&services());
    world.run("curl", &["-s", "-o", "/dev/null", &format!("http://{PAYMENT}/")]).expect_success();
    assert!(!world.run("curl", &["-s", &format!("http://{CART}/")]).status.success());
    let edges = |words: &str| -> Vec<String> {
        let answer: Value =
            serde_json::from_str(&flows(&agent, &format!("{words} -o json")).expect_success()).expect("JSON");
        answer["edges"].as_array().expect("edges").iter().map(|edge| name(edge, "service")).collect()
    };
    let edges_are = |words: &str, expected: &[&str]| {
        eventually_equal(words, SOON, &expected.iter().map(ToString::to_string).collect(), || edges(words));
    };
    edges_are("--verdict refused", &["shop/cart"]);
    edges_are("--verdict established --protocol tcp", &["shop/payment"]);
    edges_are("--protocol http", &["shop/payment"]);
    edges_are("--status 2xx --method GET", &["shop/payment"]);
    edges_are("--status 5xx", &[]);
    edges_are("--not --to-service cart --to-namespace shop", &["shop/payment"]);
    edges_are("--protocol udp", &[]);
    let table = flows(&agent, "--protocol http").expect_success();
    assert!(table.contains("200: 1"), "{table}");

    let unknown = flows(&agent, "--to-service paymnt");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("did you mean `shop/payment`?"), "{}", unknown.stderr);
    let wrong = flows(&agent, "--last 3 --status 500");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(wrong.stderr.contains("counted, not remembered"), "{}", wrong.stderr);
    let typed = flows(&agent, "--verdict refusd");
    assert_eq!(typed.status.code(), Some(2));
    assert!(typed.stderr.contains("did you mean `refused`?"), "{}", typed.stderr);
}
