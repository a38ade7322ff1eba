//! The agent is killed between any two of its bpf(2) calls: at a first start, at a start that takes over, also from another
//! build, and while it applies a changed configuration. Connections go on as if nothing was, and the next agent finds its way.
//!
//! With `SEGUE_SOAK` in the environment, as `cargo xtask soak` sets it, every call is taken; without it one in some.

use std::time::Duration;

use segue_tests::agent::{Agent, Build, SOON};
use segue_tests::client::{Client, Errno, errors, tally};
use segue_tests::counters::service_state;
use segue_tests::server::Server;
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, eventually_equal, let_pass};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const CART: &str = "198.18.0.20:80";
const DEAD: &str = "127.0.0.1:8089";

/// Of how many calls one is taken.
fn step(otherwise: usize) -> usize {
    if std::env::var_os("SEGUE_SOAK").is_some() { 1 } else { otherwise }
}

/// No start makes so many calls: it would be a loop.
const MOST_CALLS: u32 = 2_000;

/// Three backends, of which one is dead and its breaker stays open for longer than a test.
fn payment(servers: &[Server]) -> Service {
    let breaker = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 30m, open_max: 30m }";
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin").policy(breaker);
    servers.iter().fold(service.to_address(DEAD), Service::to)
}

fn servers(world: &World) -> Vec<Server> {
    vec![world.tcp("n1", "127.0.0.1:8081"), world.tcp("n2", "127.0.0.1:8082")]
}

/// An agent that runs with a breaker open, a client under load and connections held open.
struct Stage<'world> {
    agent: Agent<'world>,
    load: Client,
    holder: Client,
    held: Vec<segue_tests::client::Socket>,
    /// Connections of loads that were begun anew.
    earlier: usize,
}

impl<'world> Stage<'world> {
    fn set(world: &'world World, servers: &[Server]) -> Self {
        let agent = world.agent(&[payment(servers)]);
        let (mut load, mut holder) = (world.client(), world.client());
        eventually("the dead backend's breaker to open", SOON, || {
            match (load.attempts(PAYMENT, 1).pop(), service_state(world, PAYMENT).opened) {
                (_, 1) => Ok(()),
                (attempt, opened) => Err(format!("{opened} opened, {attempt:?}")),
            }
        });
        let held = (0..20).map(|_| holder.connect_tcp(PAYMENT).expect("the service has backends")).collect();
        let mut stage = Self { agent, load, holder, held, earlier: 0 };
        stage.begin_load();
        stage
    }

    fn begin_load(&mut self) {
        self.load.start_load(PAYMENT, 10_000_000, Duration::from_micros(300));
        self.load.await_load(50);
    }

    /// The load goes on. Now and then it is begun anew: it remembers each connection, and over many calls that is more
    /// than it can tell at once.
    fn go_on(&mut self, call: u32) {
        self.load.await_load(20);
        if call.is_multiple_of(40) {
            self.settle();
            self.begin_load();
        }
    }

    /// Ends the load, none of whose connections failed.
    fn settle(&mut self) {
        let attempts = self.load.stop_load();
        let failed = errors(&attempts);
        assert!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), attempts.len());
        self.earlier += attempts.len();
    }

    /// Nothing of what the agent went through was seen by a client.
    fn strike(mut self, world: &World) {
        self.agent.restart();
        self.settle();
        println!("{} connections in all, none failed", self.earlier);
        for socket in &self.held {
            self.holder.send(socket, "still there?\n").expect("an open connection");
            eventually("the echo", SOON, || match self.holder.read_line(socket) {
                Ok(line) if line == "still there?" => Ok(()),
                // What the server said first.
                other => Err(format!("{other:?}")),
            });
        }
        let state = service_state(world, PAYMENT);
        assert_eq!((state.opened, state.closed), (1, 0), "{state:?}");
        assert_eq!(self.agent.backend("shop/payment", DEAD, "selections"), 1);
        assert_eq!(self.agent.active("shop/payment"), 20);
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn killed_at_any_call_of_its_first_start_it_starts_again() {
    let world = World::new();
    let servers = servers(&world);
    let mut agent = world.agent(&[payment(&servers)]);
    let mut client = world.client();
    for call in (1..MOST_CALLS).step_by(step(41)) {
        agent.terminate();
        agent.unload().expect_success();
        let killed = agent.die_at_call(call, |_| {});
        agent.restart();
        let attempts = client.attempts(PAYMENT, 9);
        let failed = errors(&attempts);
        assert_eq!(failed, [Errno(libc::ECONNREFUSED)], "killed at call {call}");
        if !killed {
            println!("a first start makes fewer than {call} calls");
            return;
        }
    }
    panic!("it makes more than {MOST_CALLS} calls");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn killed_at_any_call_of_a_start_that_takes_over_nobody_notices() {
    let world = World::new();
    let servers = servers(&world);
    let mut stage = Stage::set(&world, &servers);
    stage.agent.kill();
    for call in (1..MOST_CALLS).step_by(step(23)) {
        if !stage.agent.die_at_call(call, |_| {}) {
            println!("a start that takes over makes fewer than {call} calls");
            return stage.strike(&world);
        }
        stage.go_on(call);
    }
    panic!("it makes more than {MOST_CALLS} calls");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn killed_at_any_call_of_an_upgrade_to_other_layouts_nobody_notices() {
    let world = World::new();
    let servers = servers(&world);
    let mut stage = Stage::set(&world, &servers);
    let mut killed = true;
    for call in (1..MOST_CALLS).step_by(step(61)) {
        stage.agent.restart_as(Build::This);
        stage.agent.kill();
        killed = stage.agent.die_at_call_as(Build::OtherLayouts, call);
        stage.go_on(call);
        if !killed {
            println!("an upgrade makes fewer than {call} calls");
            break;
        }
    }
    assert!(!killed, "it makes more than {MOST_CALLS} calls");
    stage.agent.restart_as(Build::This);
    stage.settle();
    // What opened or closed while a changed map was copied was missed; the agent's check puts that right.
    eventually_equal("connections counted", Duration::from_secs(60), &20, || {
        stage.agent.active("shop/payment")
    });
    stage.begin_load();
    stage.agent.kill();
    stage.strike(&world);
}

/// Services enough to make a change of many calls.
fn changed(servers: &[Server], round: usize) -> String {
    let cart = |number: usize| {
        let name = format!("shop/cart-{number}");
        Service::tcp(&name).at(&format!("198.18.1.{number}:80")).to(&servers[(number + round) % 2])
    };
    let moved = Service::tcp("shop/cart").at(CART).to(&servers[round % 2]);
    // Each round takes six away and brings six.
    let services: Vec<Service> =
        (round % 2 * 6..round % 2 * 6 + 12).map(cart).chain([payment(servers), moved]).collect();
    config(&services)
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn killed_at_any_call_of_a_change_nobody_notices_and_the_next_agent_completes_it() {
    let world = World::new();
    let servers = servers(&world);
    let mut stage = Stage::set(&world, &servers);
    stage.agent.kill();
    let calls_of_a_start = first_call_survived(&mut stage.agent);
    let mut client = world.client();
    let (mut rounds, mut killed) = (0, 0);
    for call in (calls_of_a_start..MOST_CALLS).step_by(step(13)) {
        rounds += 1;
        let next = changed(&servers, rounds);
        let mut edited = false;
        let died = stage.agent.die_at_call(call, |agent| {
            agent.edit(&next);
            edited = true;
            // Longer than a change takes: the agent looks for one ten times a second.
            let_pass(Duration::from_millis(700));
        });
        killed += u32::from(died && edited);
        if !edited {
            // A start that made more calls than those before.
            stage.agent.edit(&next);
        }
        stage.go_on(call);
        stage.agent.restart();
        let name = servers[rounds % 2].name();
        assert_eq!(tally(&client.greetings(CART, 2)), [(name, 2)].into(), "killed at call {call}");
        let gone = format!("198.18.1.{}:80", if rounds % 2 == 1 { 0 } else { 17 });
        assert_eq!(client.connect_tcp(&gone).err(), Some(Errno(libc::ENETUNREACH)), "killed at call {call}");
        stage.agent.kill();
        if rounds >= 3 && killed + 2 <= u32::try_from(rounds).expect("few") {
            println!("{killed} agents killed in {rounds} changes");
            return stage.strike(&world);
        }
    }
    panic!("a change makes more than {MOST_CALLS} calls");
}

/// The number of calls, or a few more, that a start makes until it is ready.
fn first_call_survived(agent: &mut Agent<'_>) -> u32 {
    (60..MOST_CALLS).step_by(20).find(|&call| !agent.die_at_call(call, |_| {})).expect("a start ends")
}
