//! Restarts and upgrades under load: connections are made without a pause and others are held open with their bytes
//! checked, while agents are killed, ended and replaced.
//!
//! `SEGUE_SOAK` in the environment, as `cargo xtask soak` sets it, is the number of cycles; without it there are few.

use std::time::{Duration, Instant};

use agent_ebpf::abi::ABI_VERSION;
use segue_tests::agent::{Agent, Build, SOON};
use segue_tests::client::{Client, errors};
use segue_tests::counters::service_state;
use segue_tests::server::Server;
use segue_tests::service::Service;
use segue_tests::wait::{eventually, eventually_equal, patient};
use segue_tests::world::World;

const PAYMENT: &str = "198.18.0.10:80";
const DEAD: &str = "127.0.0.1:8089";

/// How often to do it, and how many connections to hold meanwhile.
fn cycles_and_held() -> (u32, u32) {
    match std::env::var("SEGUE_SOAK").ok().and_then(|cycles| cycles.parse().ok()) {
        Some(cycles) => (cycles, 1_000),
        None => (3, 200),
    }
}

fn servers(world: &World) -> Vec<Server> {
    vec![world.tcp("n1", "127.0.0.1:8081"), world.tcp("n2", "127.0.0.1:8082")]
}

/// Clients that connect without a pause, and one that holds connections.
struct Load {
    loops: Vec<Client>,
    holder: Client,
    begin: Instant,
    /// Connections of loads that were begun anew.
    earlier: usize,
}

impl Load {
    fn start(world: &World, held: u32) -> Self {
        let mut holder = world.client();
        // As many at a time as a listener's queue holds.
        for _ in 0..held / 100 {
            let attempts = holder.connect_together(PAYMENT, 100);
            assert!(attempts.iter().all(Result::is_ok), "{attempts:?}");
        }
        assert_eq!(holder.exchange_together(1_000), 0);
        let mut loops = vec![world.client(), world.client(), world.client()];
        for client in &mut loops {
            client.start_load(PAYMENT, 10_000_000, Duration::ZERO);
            client.await_load(20);
        }
        Self { loops, holder, begin: Instant::now(), earlier: 0 }
    }

    /// Every connection that is held still has its bytes, and new ones go on.
    fn go_on(&mut self, cycle: u32) {
        assert_eq!(self.holder.exchange_together(1_000), 0, "connections stalled or reset in cycle {cycle}");
        self.loops.iter_mut().for_each(|client| client.await_load(20));
        if cycle % 10 == 9 {
            // A client remembers each connection; over hours that is more than it can tell at once.
            self.settle();
            self.loops.iter_mut().for_each(|client| client.start_load(PAYMENT, 10_000_000, Duration::ZERO));
        }
    }

    /// Ends the loads, none of whose connections failed.
    fn settle(&mut self) {
        let attempts: Vec<_> = self.loops.iter_mut().flat_map(Client::stop_load).collect();
        let failed = errors(&attempts);
        assert!(failed.is_empty(), "{} of {} connections failed: {failed:?}", failed.len(), attempts.len());
        self.earlier += attempts.len();
    }

    fn end(self, what: &str) -> Client {
        self.end_with_count(what).0
    }

    /// The client that holds connections, and how many others there were.
    fn end_with_count(mut self, what: &str) -> (Client, usize) {
        self.settle();
        let elapsed = self.begin.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate to be read")]
        let rate = self.earlier as f64 / elapsed;
        println!("{what}: {} connections, {rate:.0} a second, none failed", self.earlier);
        (self.holder, self.earlier)
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn no_connection_fails_and_nothing_is_forgotten_over_many_restarts() {
    let (cycles, held) = cycles_and_held();
    let world = World::new();
    let servers = servers(&world);
    let policy = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 1h, open_max: 1h }";
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin").policy(policy);
    let service = servers.iter().fold(service.to_address(DEAD), Service::to);
    let mut agent = world.agent(&[service]);
    let mut client = world.client();
    eventually("the dead backend's breaker to open", SOON, || match service_state(&world, PAYMENT).opened {
        1 => Ok(()),
        _ => Err(format!("{:?}", client.attempts(PAYMENT, 1))),
    });
    let mut load = Load::start(&world, held);
    for cycle in 0..cycles {
        let end = if cycle % 3 == 2 { Agent::terminate } else { Agent::kill };
        end(&mut agent);
        load.go_on(cycle);
        agent.restart();
        load.go_on(cycle);
        assert_eq!(agent.backend("shop/payment", DEAD, "selections"), 1, "the breaker stayed open");
    }
    let mut holder = load.end(&format!("{cycles} restarts, {held} connections held"));
    eventually_equal("connections counted", SOON, &u64::from(held), || agent.active("shop/payment"));
    holder.release_together();
    eventually_equal("connections counted", SOON, &0, || agent.active("shop/payment"));
}

/// To the agent, pins under another number are those of an agent with other layouts, older or newer.
fn renumber_pins(world: &World, number: u32) {
    let pin = |number: u32| world.bpffs().join(format!("segue/abi{number}")).to_string_lossy().into_owned();
    world.run_outside("mv", &[&pin(ABI_VERSION), &pin(number)]);
}

/// The numbers of the layouts that are pinned.
fn pinned_layouts(world: &World) -> Vec<String> {
    let pins = world.bpffs().join("segue").to_string_lossy().into_owned();
    world.run_outside("ls", &[&pins]).lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn no_connection_fails_at_upgrades_to_other_layouts_and_back() {
    let (cycles, held) = cycles_and_held();
    let world = World::new();
    let servers = servers(&world);
    let service = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin");
    let mut agent = world.agent(&[servers.iter().fold(service, Service::to)]);
    let mut load = Load::start(&world, held);
    for cycle in 0..cycles {
        agent.kill();
        renumber_pins(&world, if cycle % 2 == 0 { ABI_VERSION + 1 } else { ABI_VERSION - 1 });
        load.go_on(cycle);
        agent.restart();
        load.go_on(cycle);
        assert_eq!(pinned_layouts(&world), [format!("abi{ABI_VERSION}")], "the others' pins are removed");
    }
    load.end(&format!("{cycles} upgrades, {held} connections held"));
}

const STICKY: &str = "198.18.0.20:80";

/// So long a count that was off for three rounds of the agent's check is put right.
const HEALED: Duration = Duration::from_secs(60);

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn what_two_builds_have_in_common_survives_upgrades_and_downgrades() {
    let (cycles, held) = cycles_and_held();
    let world = World::new();
    let servers = servers(&world);
    let policy = "breaker: { consecutive_failures: 1, failure_ratio: 0%, open: 1h, open_max: 1h }";
    let payment = Service::tcp("shop/payment").at(PAYMENT).policy("algorithm: round_robin").policy(policy);
    let payment = servers.iter().fold(payment.to_address(DEAD), Service::to);
    let sticky = Service::tcp("shop/sticky").at(STICKY).policy("affinity: { timeout: 1h }");
    let mut agent = world.agent(&[payment, servers.iter().fold(sticky, Service::to)]);
    let (mut client, mut loyal) = (world.client(), world.client_in("system.slice/loyal.service"));
    eventually("the dead backend's breaker to open", SOON, || match service_state(&world, PAYMENT).opened {
        1 => Ok(()),
        _ => Err(format!("{:?}", client.attempts(PAYMENT, 1))),
    });
    let opened = |agent: &Agent<'_>| {
        agent.metrics().sum("segue_tcp_connections_opened_total", &[("dst_service", "payment")])
    };
    let before = settled(|| opened(&agent));
    let home = loyal.greetings(STICKY, 1);
    let mut load = Load::start(&world, held);
    for cycle in 0..cycles {
        let end = if cycle % 3 == 2 { Agent::terminate } else { Agent::kill };
        end(&mut agent);
        load.go_on(cycle);
        agent.restart_as(if cycle % 2 == 0 { Build::OtherLayouts } else { Build::This });
        load.go_on(cycle);
        assert_eq!(agent.backend("shop/payment", DEAD, "selections"), 1, "the breaker stayed open");
        assert_eq!(loyal.greetings(STICKY, 4), vec![home[0].clone(); 4], "the client kept its backend");
        assert_eq!(pinned_layouts(&world).len(), 1, "the others' pins are removed");
    }
    let (mut holder, others) =
        load.end_with_count(&format!("{cycles} upgrades and downgrades, {held} connections held"));
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let made = before + (others + held as usize) as f64;
    eventually_equal("connections opened", SOON, &made, || opened(&agent));
    // What opened or closed while a changed map was copied was missed; the agent's check puts that right.
    eventually_equal("connections counted", HEALED, &u64::from(held), || agent.active("shop/payment"));
    holder.release_together();
    eventually_equal("connections counted", HEALED, &0, || agent.active("shop/payment"));
}

/// A count of the agent's once it stays the same for a while: what was counted just now is read at its next tick.
fn settled(mut count: impl FnMut() -> f64) -> f64 {
    let (mut last, mut since) = (count(), Instant::now());
    eventually("a count that stays", SOON, || {
        let now = count();
        if (now - last).abs() > 0.0 {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > patient(Duration::from_secs(3)) { Ok(last) } else { Err(format!("is {now}")) }
    })
}
