//! Differential fuzzing of socket calls: the same random sequence runs against service addresses where the programs
//! see it, and against the backends' own addresses where they do not. Whoever made the calls must not be able to tell.
//!
//! What may differ is in docs/limits.md, each with its reason, and kept out of the sequences here.

mod steps;

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use agent_ebpf::abi::{BackendState, Protocol};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use segue_tests::client::protocol::Command;
use segue_tests::client::{Client, Errno};
use segue_tests::counters::first_backend_of;
use segue_tests::pinned::PinnedMap;
use segue_tests::server::{BlackHole, Server};
use segue_tests::service::Service;
use segue_tests::wait::let_pass;
use segue_tests::world::World;
use serde_json::{Value, json};
use steps::{Place, SERVICES, Side, Step, known, name, sequence};

/// Sequences of the short form.
const CASES: u32 = 40;

/// A difference counts when so many runs of the same sequence show one: what only a busy machine shows does not.
const RUNS: u32 = 3;

/// How long a blocking call may wait.
const PATIENCE_MS: u32 = 60;

/// How long what the last close leaves behind may take to be given back.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// What one step gave: its result, and what `poll(2)` says afterwards where something may have come back.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    result: Result<Value, i32>,
    events: Result<Value, i32>,
}

fn play(client: &mut Client, side: Side, steps: &[Step]) -> Vec<Seen> {
    let mut ask = |command: &Command| client.ask::<Value>(command).map_err(|Errno(errno)| errno);
    let mut seen = Vec::new();
    for step in steps {
        let result = ask(&step.command(side));
        let socket = name(step.socket());
        if let Step::Open(..) = step {
            ask(&Command::Patience { socket: socket.clone(), timeout_ms: PATIENCE_MS }).expect("a socket");
        }
        let events = if step.acts() { ask(&Command::Events { socket }) } else { Ok(Value::Null) };
        let result = result.map(|value| if is_local(step) { without_port(&value) } else { value });
        seen.push(Seen { result, events });
    }
    seen
}

fn is_local(step: &Step) -> bool {
    match step {
        Step::Local(_) => true,
        Step::InChild(step) | Step::InReceiver(step) => is_local(step),
        _ => false,
    }
}

/// A port the kernel chose says nothing; that it chose one does.
fn without_port(local: &Value) -> Value {
    let text = local.as_str().expect("an address");
    let (ip, port) = text.rsplit_once(':').expect("an address and a port");
    json!(format!("{ip}:{}", if port == "0" { "none" } else { "some" }))
}

/// Everything sequences run against.
struct Bench<'world> {
    world: &'world World,
    states: PinnedMap,
    /// Key in `BACKEND_STATE`, and what it is called.
    backends: Vec<(Vec<u8>, String)>,
    /// From each backend's address to the service address that a managed client sees in its place. Not the other way
    /// round: then a backend's address that shines through would pass.
    names: HashMap<String, String>,
    /// How often a service's address was seen where a backend's is.
    hidden: Cell<u32>,
}

impl<'world> Bench<'world> {
    fn new(world: &'world World) -> Self {
        let mut backends = Vec::new();
        let mut names = HashMap::new();
        for (place, frontends, addresses) in SERVICES {
            for (frontend, backend) in frontends.into_iter().zip(addresses) {
                names.insert(backend.to_owned(), frontend.to_owned());
                if let (Some(frontend), Some(backend)) = (mapped(frontend), mapped(backend)) {
                    names.insert(backend, frontend);
                }
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let key = first_backend_of(world, frontend, protocol);
                    backends.push((key, format!("{protocol:?} {place:?} at {backend}")));
                }
            }
        }
        Self { world, states: PinnedMap::open(world, "BACKEND_STATE"), backends, names, hidden: Cell::new(0) }
    }

    /// Runs a sequence once. An error says at which step the two differed, and how.
    fn compare(&self, steps: &[Step]) -> Result<(), String> {
        let (mut managed, mut direct) = (self.world.client(), self.world.client_outside());
        let (seen, expected) = std::thread::scope(|scope| {
            let managed = scope.spawn(|| play(&mut managed, Side::Managed, steps));
            let direct = play(&mut direct, Side::Direct, steps);
            (managed.join().expect("the managed client answers"), direct)
        });
        for (at, (seen, expected)) in seen.into_iter().zip(expected).enumerate() {
            let result = expected.result.map(|value| self.service_names(value));
            let expected = Seen { result, ..expected };
            if seen != expected {
                let step = &steps[at];
                return Err(format!("step {}, {step:?}: {seen:?}, but directly {expected:?}", at + 1));
            }
        }
        Ok(())
    }

    /// The same value with the backends' addresses replaced by those of their services.
    fn service_names(&self, value: Value) -> Value {
        match value {
            Value::String(text) => match self.names.get(&text) {
                Some(service) => {
                    self.hidden.set(self.hidden.get() + 1);
                    service.as_str().into()
                }
                None => text.into(),
            },
            Value::Array(list) => list.into_iter().map(|value| self.service_names(value)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(field, value)| (field, self.service_names(value))).collect()
            }
            other => other,
        }
    }

    /// Connections counted, and handshakes under way, of every backend.
    fn counts(&self) -> Vec<(u64, u64)> {
        let number = |state: &[u8], offset: usize| {
            u64::from_ne_bytes(state[offset..offset + 8].try_into().expect("eight bytes"))
        };
        let counts = |(key, _): &(Vec<u8>, String)| {
            let state = self.states.lookup(key).expect("an entry for every backend");
            let active = number(&state, std::mem::offset_of!(BackendState, active));
            (active, number(&state, std::mem::offset_of!(BackendState, pending)))
        };
        self.backends.iter().map(counts).collect()
    }

    /// Both clients are gone: so is what was counted for them.
    fn leaks_nothing(&self, before: &[(u64, u64)]) -> Result<(), String> {
        let deadline = Instant::now() + RELEASE_LIMIT;
        loop {
            let now = self.counts();
            let left = now.iter().zip(before).zip(&self.backends).find(|((now, before), _)| now != before);
            let Some(((now, before), (_, backend))) = left else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(format!("{backend} counts (active, pending) {now:?}, before {before:?}"));
            }
            let_pass(Duration::from_millis(5));
        }
    }

    /// Whether a sequence shows a difference again and again, or leaves something counted.
    fn check(&self, steps: &[Step], unsure: &Cell<u32>) -> Result<(), String> {
        let mut difference = String::new();
        for _ in 0..RUNS {
            let before = self.counts();
            let compared = self.compare(steps);
            self.leaks_nothing(&before)?;
            match compared {
                Ok(()) if difference.is_empty() => return Ok(()),
                Ok(()) => {
                    unsure.set(unsure.get() + 1);
                    println!("seen once and not again: {difference}");
                    return Ok(());
                }
                Err(reason) => difference = reason,
            }
        }
        Err(difference)
    }
}

/// The IPv4-mapped form of an IPv4 address, as text.
fn mapped(text: &str) -> Option<String> {
    let (ip, port) = text.rsplit_once(':')?;
    let ip: std::net::Ipv4Addr = ip.parse().ok()?;
    Some(format!("[{}]:{port}", ip.to_ipv6_mapped()))
}

fn servers(world: &World) -> (Vec<Server>, Vec<BlackHole>, Vec<std::net::UdpSocket>) {
    let resets = [world.tcp("resets", "127.0.0.1:8082"), world.tcp("resets", "[::1]:8082")];
    resets.iter().for_each(|server| server.reset_new_connections(true));
    let mut servers = Vec::from(resets);
    for (name, at) in [
        ("echo", "127.0.0.1:8081"),
        ("echo", "[::1]:8081"),
        ("foreign", "127.0.0.1:8091"),
        ("foreign", "[::1]:8091"),
    ] {
        servers.push(world.tcp(name, at));
        servers.push(world.udp(name, at));
    }
    let silent = ["127.0.0.1:8089", "[::1]:8089"];
    let holes = silent.map(|at| world.black_hole(at));
    let mute = silent.map(|at| {
        world
            .namespace()
            .run(|| std::net::UdpSocket::bind(at))
            .unwrap_or_else(|error| panic!("{at}: {error}"))
    });
    (servers, holes.into(), mute.into())
}

fn services() -> Vec<Service> {
    let mut services = Vec::new();
    for (place, frontends, backends) in SERVICES {
        let name = format!("{place:?}").to_lowercase();
        for service in [Service::tcp(&format!("{name}-tcp")), Service::udp(&format!("{name}-udp"))] {
            let service = frontends.iter().fold(service, |service, frontend| service.at(frontend));
            // A limit that no sequence reaches, but that is set and lifted on every socket.
            let service = if place == Place::Echo { service.policy("connect_timeout: 9s") } else { service };
            services.push(backends.iter().fold(service, |service, backend| service.to_address(backend)));
        }
    }
    services
}

/// Runs so many sequences from a seed.
fn fuzz(bench: &Bench<'_>, seed: u64, cases: u32) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let unsure = Cell::new(0);
    let result = TestRunner::new_with_rng(config, random)
        .run(&sequence(), |steps| bench.check(&steps, &unsure).map_err(TestCaseError::fail));
    if let Err(TestError::Fail(reason, steps)) = result {
        let steps: Vec<String> =
            steps.iter().enumerate().map(|(at, step)| format!("{:>3}. {step:?}", at + 1)).collect();
        panic!("seed {seed}: {reason}\nthe shortest sequence that shows it:\n{}", steps.join("\n"));
    }
    result.expect("sequences can be made");
    let hidden = bench.hidden.take();
    let unsure = unsure.get();
    println!(
        "seed {seed}: {cases} sequences without a difference, {unsure} unsure, {hidden} addresses hidden"
    );
    assert!(hidden > 0, "sequences in which no backend's address could show are about nothing");
    assert!(unsure < cases / 4, "most differences were seen only once: is the machine this slow?");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn no_sequence_of_socket_calls_can_tell_a_service_from_its_backend() {
    let world = World::new();
    let _servers = servers(&world);
    let mut agent = world.agent(&services());
    // The kernel alone: nothing mends a count behind the test's back.
    agent.kill();
    let bench = Bench::new(&world);
    for steps in known() {
        let result = bench.check(&steps, &Cell::new(0));
        assert_eq!(result, Ok(()), "{steps:#?}");
    }
    let number = |variable| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let Some(seconds) = number("SEGUE_FUZZ_SECONDS") else {
        fuzz(&bench, number("SEGUE_FUZZ_SEED").unwrap_or(1), CASES);
        return;
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        fuzz(&bench, rand_seed(), CASES);
    }
}

/// A seed that no run had before.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
