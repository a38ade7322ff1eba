//! The agent under test, as a process: start, wait until it is ready, ask, edit its configuration, end it in
//! every way. Knows the command line and the JSON it prints, nothing of the agent's code.

mod build;
mod death;

mod counts;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::exposition::Exposition;
use crate::namespace::Namespace;
use crate::program::{Finished, Program};
use crate::wait::{eventually, patient};
use crate::world::{World, beside_test};

pub use build::Build;

/// Where the agent listens inside the namespace of its test.
const LISTEN: &str = "127.0.0.1:9464";

/// The zone every agent is told to be in; it matters to services that prefer a zone.
pub const ZONE: &str = "here";

/// How long loading maps and programs may take on a busy machine.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long anything the agent does by itself may take: a reload, a sweep, a sample.
pub const SOON: Duration = Duration::from_secs(15);

/// How an agent follows a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How to reach the API server.
    pub kubeconfig: PathBuf,
    /// The node the agent is on.
    pub node: String,
    /// Whether it also has the configuration file `segue.yaml` of its world.
    pub has_file: bool,
}

/// An agent that runs, or ran.
#[derive(Debug)]
pub struct Agent<'w> {
    world: &'w World,
    process: Option<Program>,
    config: PathBuf,
    /// How it reaches an API server, instead of or beside its file.
    cluster: Option<Cluster>,
    /// What it is started by, as in `setpriv … --`; empty where nothing is between.
    starter: Vec<String>,
    /// More arguments of `segue run`.
    more: Vec<String>,
    /// The build that runs.
    build: Build,
}

impl<'w> Agent<'w> {
    /// Starts the agent on a configuration file and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or is not ready in time, with its log.
    pub(crate) fn start(world: &'w World, config: &Path, starter: &[&str]) -> Self {
        let starter = starter.iter().map(ToString::to_string).collect();
        let mut agent = Self {
            world,
            process: None,
            config: config.to_owned(),
            cluster: None,
            starter,
            more: Vec::new(),
            build: Build::This,
        };
        agent.restart();
        agent
    }

    /// An agent that follows a cluster, not started yet.
    pub(crate) fn of_cluster(world: &'w World, cluster: Cluster) -> Self {
        let config = world.directory().join("segue.yaml");
        let (starter, more, build) = (Vec::new(), Vec::new(), Build::This);
        Self { world, process: None, config, cluster: Some(cluster), starter, more, build }
    }

    /// Starts the agent where it cannot be ready, and waits until its log holds this.
    ///
    /// # Panics
    /// When it ends, or does not say so in time.
    pub fn restart_waiting(&mut self, said: &str) {
        self.launch("the agent to say what it waits for", |log| match log.contains(said) {
            true => Ok(()),
            false => Err(format!("no {said:?}")),
        });
    }

    /// What `/readyz` says: the code and the text.
    ///
    /// # Panics
    /// When nobody answers.
    pub fn readyz(&self) -> (u16, String) {
        get(self.world.namespace(), "/readyz").expect("the agent answers")
    }

    /// Starts the agent again on the same configuration, cgroup and bpffs, and waits until it is ready.
    ///
    /// # Panics
    /// As [`World::agent`] does.
    pub fn restart(&mut self) {
        let namespace = self.world.namespace();
        self.launch("the agent to be ready", |log| match get(namespace, "/readyz") {
            Ok((200, _)) if log.contains("ready") => Ok(()),
            Ok((code, body)) => Err(format!("/readyz says {code}: {body}")),
            Err(error) => Err(error.to_string()),
        });
    }

    /// Starts the agent again with these arguments of `segue run` besides the usual ones, and waits until it is ready.
    ///
    /// # Panics
    /// As [`World::agent`] does.
    pub fn restart_with(&mut self, more: &[&str]) {
        self.more = more.iter().map(ToString::to_string).collect();
        self.restart();
    }

    /// Starts the agent again, from another build, and waits until it is ready.
    ///
    /// # Panics
    /// As [`World::agent`] does.
    pub fn restart_as(&mut self, build: Build) {
        self.build = build;
        self.restart();
    }

    /// Starts the agent again with its log going to this file, and waits until it is ready.
    ///
    /// # Panics
    /// As [`World::agent`] does.
    pub fn restart_logging_to(&mut self, file: &Path) {
        let script = format!("exec \"$0\" \"$@\" 2>>{}", file.display());
        self.starter = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let namespace = self.world.namespace();
        self.launch("the agent to be ready", |_| match get(namespace, "/readyz") {
            Ok((200, _)) => Ok(()),
            Ok((code, body)) => Err(format!("/readyz says {code}: {body}")),
            Err(error) => Err(error.to_string()),
        });
    }

    /// Runs the agent where it cannot start, to its end.
    pub fn run_to_its_end(&self) -> Finished {
        self.world.start_outside(self.run_command()).finish()
    }

    /// Waits until it ends by itself, or by somebody else's hand.
    ///
    /// # Panics
    /// When it does not run, or is still there after [`SOON`].
    pub fn await_end(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("the agent runs");
        process.wait(SOON)
    }

    /// Starts the agent again where its configuration is wrong, and waits until it says so while not ready.
    ///
    /// # Panics
    /// When it ends, or does not say so in time.
    pub fn restart_unready(&mut self) {
        let namespace = self.world.namespace();
        let file = self.config.to_string_lossy().into_owned();
        self.launch("the agent to complain about its configuration", |log| match get(namespace, "/readyz") {
            Ok((200, _)) => panic!("the agent is ready with a wrong configuration:\n{log}"),
            Ok((503, _)) if log.contains(&file) => Ok(()),
            Ok((code, body)) => Err(format!("/readyz says {code}: {body}")),
            Err(error) => Err(error.to_string()),
        });
    }

    fn launch(&mut self, what: &str, check: impl Fn(&str) -> Result<(), String>) {
        self.process = None;
        let process = self.process.insert(self.world.start_outside(self.run_command()));
        eventually(what, READY_LIMIT, || {
            if let Some(status) = process.ended() {
                panic!("the agent ended with {status}:\n{}", process.output());
            }
            let log = process.output();
            check(&log).map_err(|reason| format!("{reason}\n{log}"))
        });
    }

    /// Everything it has logged since it was last started.
    ///
    /// # Panics
    /// When it does not run.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("the agent runs").output()
    }

    /// Its process id, also where something else started it.
    ///
    /// # Panics
    /// When it does not say.
    pub fn pid(&self) -> u32 {
        let pid = self.status()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.expect("an agent that runs has a process id")
    }

    /// Runs a second agent on the same bpffs to its end; where it would listen differs from the first.
    pub fn run_second(&self) -> Finished {
        let mut command = Command::new(beside_test("segue"));
        command.arg("run").arg("--config").arg(&self.config);
        command.arg("--cgroup").arg(self.world.managed_cgroup()).args(["--listen", "127.0.0.1:9465"]);
        command.arg("--socket").arg(self.world.directory().join("second.sock"));
        command.arg("--bpffs").arg(self.world.bpffs());
        self.world.start_outside(command).finish()
    }

    /// The agent's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process(&self) -> &Program {
        self.process.as_ref().expect("the agent runs")
    }

    /// Kills the agent with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.end(libc::SIGKILL);
    }

    /// Ends the agent with SIGTERM.
    ///
    /// # Panics
    /// When it does not run, or does not end well within 10 s.
    pub fn terminate(&mut self) {
        let status = self.end(libc::SIGTERM);
        assert!(status.success(), "the agent ended with {status} on SIGTERM");
    }

    fn end(&mut self, signal: libc::c_int) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("the agent runs");
        process.signal(signal);
        process.wait(Duration::from_secs(10))
    }

    /// Overwrites the configuration file in place.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn edit(&self, config: &str) {
        fs::write(&self.config, config).expect("a configuration file can be written");
    }

    /// Replaces the configuration file by renaming another over it.
    ///
    /// # Panics
    /// When that is refused.
    pub fn replace(&self, config: &str) {
        let next = self.config.with_extension("next");
        fs::write(&next, config).expect("a configuration file can be written");
        fs::rename(&next, &self.config).expect("a rename within one directory");
    }

    /// The directory of what outlives it.
    pub fn state_directory(&self) -> PathBuf {
        self.world.directory().join("state")
    }

    /// The configuration file.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// `segue status -o json`.
    pub fn status(&self) -> Value {
        self.query("status")
    }

    /// `segue services -o json`: the list of services.
    pub fn services(&self) -> Vec<Value> {
        list(self.query("services"), "services")
    }

    /// `segue flows -o json`: the list of edges.
    pub fn flows(&self) -> Vec<Value> {
        list(self.query("flows"), "edges")
    }

    /// `segue map` with these arguments.
    pub fn map(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(beside_test("segue"));
        command.arg("map").args(arguments).arg("--socket").arg(self.socket());
        self.world.start_outside(command).finish()
    }

    /// One number of one backend, as `segue services` gives it.
    ///
    /// # Panics
    /// When there is no such service, backend or field.
    pub fn backend(&self, service: &str, address: &str, field: &str) -> u64 {
        let services = self.services();
        services
            .iter()
            .filter(|view| view["name"] == service)
            .flat_map(|view| view["backends"].as_array().into_iter().flatten())
            .find(|backend| backend["address"] == address)
            .and_then(|backend| backend[field].as_u64())
            .unwrap_or_else(|| panic!("no {field} of {service} {address} in {services:#?}"))
    }

    /// Connections now counted for all backends of a service.
    ///
    /// # Panics
    /// When there is no such service.
    pub fn active(&self, service: &str) -> u64 {
        let services = self.services();
        let views: Vec<_> = services.iter().filter(|view| view["name"] == service).collect();
        assert!(!views.is_empty(), "no service {service} in {services:#?}");
        views
            .iter()
            .flat_map(|view| view["backends"].as_array().into_iter().flatten())
            .map(|backend| backend["active"].as_u64().expect("a number of active connections"))
            .sum()
    }

    /// A scrape of `/metrics`.
    ///
    /// # Panics
    /// When it is not answered with 200.
    pub fn metrics(&self) -> Exposition {
        let (code, body) = get(self.world.namespace(), "/metrics").expect("the agent serves its metrics");
        assert_eq!(code, 200, "/metrics says: {body}");
        Exposition::parse(&body)
    }

    /// `segue unload` for this agent's bpffs.
    pub fn unload(&self) -> Finished {
        let mut command = Command::new(beside_test("segue"));
        command.arg("unload").arg("--bpffs").arg(self.world.bpffs());
        self.world.start_outside(command).finish()
    }

    /// A command of `segue` that asks this agent, started.
    pub fn start_command(&self, arguments: &[&str]) -> Program {
        let mut command = Command::new(beside_test("segue"));
        command.args(arguments).arg("--socket").arg(self.socket());
        self.world.start_outside(command)
    }

    /// `segue breaker` with these arguments.
    pub fn breaker(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(beside_test("segue"));
        command.arg("breaker").args(arguments).arg("--socket").arg(self.socket());
        self.world.start_outside(command).finish()
    }

    /// `segue rollout` with these arguments.
    pub fn rollout(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(beside_test("segue"));
        command.arg("rollout").args(arguments).arg("--socket").arg(self.socket());
        self.world.start_outside(command).finish()
    }

    /// `segue accept` with these arguments.
    pub fn accept(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(beside_test("segue"));
        command.arg("accept").args(arguments).arg("--socket").arg(self.socket());
        self.world.start_outside(command).finish()
    }

    /// `segue explain` of a service's name, or of an address and port.
    pub fn explain(&self, target: &str) -> Value {
        self.explain_with(&[target])
    }

    /// `segue explain` to the client in a cgroup.
    pub fn explain_to(&self, cgroup: &Path, target: &str) -> Value {
        self.explain_with(&[target, "--as", &cgroup.display().to_string()])
    }

    fn explain_with(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(beside_test("segue"));
        command.arg("explain").args(arguments).args(["-o", "json", "--socket"]).arg(self.socket());
        let text = self.world.start_outside(command).finish().expect_success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON: {error}\n{text}"))
    }

    /// `segue status --overhead`, which takes a second.
    pub fn overhead(&self) -> Value {
        let mut command = Command::new(beside_test("segue"));
        command.args(["status", "--overhead", "-o", "json", "--socket"]).arg(self.socket());
        let text = self.world.start_outside(command).finish().expect_success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON: {error}\n{text}"))
    }

    fn query(&self, subject: &str) -> Value {
        let mut command = Command::new(beside_test("segue"));
        command.arg(subject).arg("--socket").arg(self.socket()).args(["-o", "json"]);
        let finished = self.world.start_outside(command).finish();
        // Status says by 3 that it was told of a problem, which some tests are about.
        let reported = subject == "status" && finished.status.code() == Some(3);
        let text = if reported { finished.stdout } else { finished.expect_success() };
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("segue {subject} printed no JSON: {error}\n{text}"))
    }

    /// The admin API's socket.
    pub fn socket(&self) -> PathBuf {
        self.world.directory().join("segue.sock")
    }

    fn run_command(&self) -> Command {
        let mut command = match self.starter.as_slice() {
            [] => Command::new(self.build.binary()),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(self.build.binary());
                command
            }
        };
        command.arg("run");
        match &self.cluster {
            None => drop(command.arg("--config").arg(&self.config).args(["--zone", ZONE])),
            Some(cluster) => {
                command.args(["--kubernetes", "--node", &cluster.node]);
                command.arg("--kubeconfig").arg(&cluster.kubeconfig);
                if cluster.has_file {
                    command.arg("--config").arg(&self.config);
                }
            }
        }
        command.arg("--cgroup").arg(self.world.managed_cgroup()).args(["--listen", LISTEN]);
        command.arg("--socket").arg(self.socket()).arg("--bpffs").arg(self.world.bpffs());
        command.arg("--state").arg(self.state_directory());
        command.args(&self.more);
        command
    }
}

/// A JSON array, bare or as the field of this name.
fn list(value: Value, field: &str) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        Value::Object(mut object) => match object.remove(field) {
            Some(Value::Array(list)) => list,
            other => panic!("{field} is no list: {other:?}"),
        },
        other => panic!("{field} is no list: {other}"),
    }
}

fn get(namespace: &Namespace, path: &str) -> std::io::Result<(u16, String)> {
    namespace.run(|| {
        let mut stream = TcpStream::connect(LISTEN)?;
        stream.set_read_timeout(Some(patient(Duration::from_secs(10))))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((code, body.to_owned()))
    })
}
