//! Canaries: one that does worse than its baseline loses its share by itself, one that does not gets all of it, and
//! what became of it outlives the agent. By counts of connections, at a rate that is known.

use std::time::Duration;

use segue_tests::agent::{Agent, SOON};
use segue_tests::client::protocol::{Attempt, Family, Kind};
use segue_tests::client::tally;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal};
use segue_tests::world::World;
use serde_json::Value;

const PAYMENT: &str = "198.18.0.10:80";
const V1: &str = "127.0.0.1:8081";
const V2: &str = "127.0.0.1:8082";

/// Between two connections of a load: at most a hundred a second.
const PAUSE: Duration = Duration::from_millis(10);

/// `shop/payment` with two versions and a canary that says this beside its version.
fn payment(split: &str, canary: &str) -> Service {
    Service::tcp("shop/payment")
        .at(PAYMENT)
        .policy(&format!("split: {{ {split} }}"))
        .policy(&format!("canary: {{ version: v2, {canary} }}"))
        .to_address_with(V1, "version: v1")
        .to_address_with(V2, "version: v2")
}

/// The one canary, as `segue rollout` shows it.
fn rollout(agent: &Agent<'_>) -> Value {
    let text = agent.rollout(&["shop/payment", "-o", "json"]).expect_success();
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["rollouts"][0].clone()
}

fn await_phase(agent: &Agent<'_>, phase: &str) -> Value {
    eventually(&format!("the canary to be {phase}"), SOON, || {
        let rollout = rollout(agent);
        if rollout["phase"] == phase { Ok(rollout) } else { Err(rollout.to_string()) }
    })
}

fn failures(attempts: &[Attempt]) -> usize {
    attempts.iter().filter(|attempt| attempt.is_err()).count()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_canary_that_refuses_is_rolled_back_within_a_second_of_the_evidence() {
    let world = World::new();
    let _v1 = world.tcp("v1", V1);
    let agent = world.agent(&[payment("v1: 1, v2: 1", "guard: { minimum_samples: 20 }")]);
    let mut client = world.client();
    client.start_load(PAYMENT, 10_000, PAUSE);
    let shown = await_phase(&agent, "rolled_back");
    client.await_load(50);
    let failed = failures(&client.stop_load());
    // The minimum, half of the hundred of a second, and some for a busy machine.
    assert!((20..=20 + 50 + 30).contains(&failed), "{failed} connections reached the canary: {shown}");
    assert_eq!(failures(&client.attempts(PAYMENT, 100)), 0);

    assert_eq!((&shown["cause"], &shown["weight_permille"]), (&"connect_failure_ratio".into(), &0.into()));
    let reason = shown["reason"].as_str().expect("a reason");
    assert!(reason.contains("failed to connect"), "{reason}");
    let status = agent.status();
    assert!(status["rollouts"][0]["summary"].as_str().is_some_and(|text| text.contains(reason)), "{status}");
    let explained = agent.explain("shop/payment")["chains"][0]["services"][0]["rollout"].to_string();
    assert!(explained.contains("was rolled back"), "{explained}");
    let labels = [("dst_service", "payment"), ("reason", "connect_failure_ratio")];
    assert!((agent.metrics().sum("segue_rollout_rollbacks_total", &labels) - 1.0).abs() < f64::EPSILON);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_canary_that_resets_its_connections_is_rolled_back() {
    let world = World::new();
    let (_v1, v2) = (world.tcp("v1", V1), world.tcp("v2", V2));
    v2.reset_new_connections(true);
    let agent = world.agent(&[payment("v1: 1, v2: 1", "guard: { minimum_samples: 20 }")]);
    let mut client = world.client();
    client.start_load(PAYMENT, 10_000, PAUSE);
    let shown = await_phase(&agent, "rolled_back");
    client.stop_load();
    assert_eq!(shown["cause"], "reset_ratio", "{shown}");
    assert_eq!(tally(&client.greetings(PAYMENT, 50)), [("v1", 50)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_canary_with_slow_handshakes_is_rolled_back() {
    let world = World::new();
    let _v1 = world.tcp("v1", V1);
    let hole = world.black_hole(V2);
    let agent = world.agent(&[payment("v1: 1, v2: 1", "guard: { minimum_samples: 10, connect_p99: 2x }")]);
    let mut client = world.client();
    let sockets: Vec<_> = (0..80).map(|_| client.open(Family::V4, Kind::Stream)).collect();
    for socket in &sockets {
        // Refused by nobody: it is decided later.
        let _pending = client.connect_nonblocking(socket, PAYMENT);
    }
    let _v2 = hole.answer("v2");
    for socket in &sockets {
        assert_eq!(client.finish_connect(socket), Ok(()));
    }
    let shown = await_phase(&agent, "rolled_back");
    assert_eq!(shown["cause"], "connect_p99", "{shown}");
    assert_eq!(tally(&client.greetings(PAYMENT, 50)), [("v1", 50)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_canary_that_does_as_well_goes_through_its_steps_to_every_connection() {
    let world = World::new();
    let (_v1, _v2) = (world.tcp("v1", V1), world.tcp("v2", V2));
    let canary = "steps: [20%, 50%, 100%], every: 1s, guard: { minimum_samples: 10, window: 1s }";
    let agent = world.agent(&[payment("v1: 9, v2: 1", canary)]);
    assert_eq!(rollout(&agent)["weight_permille"], 200);
    let mut client = world.client();
    client.start_load(PAYMENT, 20_000, Duration::from_millis(5));
    eventually_equal("the second step", SOON, &Value::from(500), || {
        rollout(&agent)["weight_permille"].clone()
    });
    await_phase(&agent, "promoted");
    assert_eq!(failures(&client.stop_load()), 0);
    assert_eq!(tally(&client.greetings(PAYMENT, 50)), [("v2", 50)].into());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_step_waits_while_there_are_too_few_connections() {
    let world = World::new();
    let (_v1, _v2) = (world.tcp("v1", V1), world.tcp("v2", V2));
    let canary = "steps: [50%, 100%], every: 1s, guard: { minimum_samples: 10, window: 1s }";
    let agent = world.agent(&[payment("v1: 1, v2: 1", canary)]);
    eventually_equal("the step to be due", SOON, &Value::from(0), || {
        rollout(&agent)["next_step_in_ms"].clone()
    });
    let shown = rollout(&agent);
    assert_eq!((&shown["phase"], &shown["verdict"]), (&"progressing".into(), &"too_few".into()), "{shown}");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_rollback_outlives_the_agent_and_ends_with_an_edit_of_the_split() {
    let world = World::new();
    let (_v1, v2) = (world.tcp("v1", V1), world.tcp("v2", V2));
    let canary = "guard: { minimum_samples: 10 }";
    let mut agent = world.agent(&[payment("v1: 1, v2: 1", canary)]);
    v2.reset_new_connections(true);
    let mut client = world.client();
    client.start_load(PAYMENT, 10_000, PAUSE);
    await_phase(&agent, "rolled_back");
    client.stop_load();
    v2.reset_new_connections(false);
    for end in [Agent::kill, Agent::terminate] {
        end(&mut agent);
        assert_eq!(tally(&client.greetings(PAYMENT, 50)), [("v1", 50)].into(), "without an agent");
        agent.restart();
        let shown = rollout(&agent);
        assert_eq!(
            (&shown["phase"], &shown["cause"]),
            (&"rolled_back".into(), &"reset_ratio".into()),
            "{shown}"
        );
        assert_eq!(tally(&client.greetings(PAYMENT, 50)), [("v1", 50)].into(), "with a new one");
    }
    agent.edit(&config(&[payment("v1: 1, v2: 2", canary)]));
    await_phase(&agent, "progressing");
    eventually_equal("both to answer", SOON, &2, || tally(&client.greetings(PAYMENT, 20)).len());
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn an_operator_rolls_back_resumes_pauses_and_promotes() {
    let world = World::new();
    let (_v1, _v2) = (world.tcp("v1", V1), world.tcp("v2", V2));
    let agent = world.agent(&[payment("v1: 1, v2: 1", "steps: [50%, 60%]")]);
    let mut client = world.client();
    for (order, versions) in [
        ("rollback", vec!["v1"]),
        ("resume", vec!["v1", "v2"]),
        ("pause", vec!["v1", "v2"]),
        ("promote", vec!["v2"]),
    ] {
        agent.rollout(&[order, "shop/payment"]).expect_success();
        eventually_equal(&format!("what {order} means"), SOON, &versions, || {
            let names = client.greetings(PAYMENT, 40);
            tally(&names).keys().map(|name| if *name == "v1" { "v1" } else { "v2" }).collect()
        });
    }
    let refused = agent.rollout(&["pause", "shop/payment"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("is promoted and cannot be paused"), "{}", refused.stderr);
}
