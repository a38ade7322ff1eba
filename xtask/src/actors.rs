//! Servers that behave as they are told: answer their name, answer late, refuse, reset, or leave every handshake
//! without an answer. A process of its own on a node; a line on its input changes what one of them does, to new
//! connections or to all.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write, stdin, stdout};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{ChildStdout, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::backends::answer;
use crate::node::{Node, Place, Process};

/// The first server's port; the others follow. Below 1024, where no client's own port is when a server comes back.
const FIRST_PORT: u16 = 901;

/// Handshakes that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// With a queue for none, one connection fills it, and the second makes sure.
const FILLERS: usize = 2;

/// How long a filler waits for its handshake, which the last one never gets.
const FILLER_LIMIT: Duration = Duration::from_millis(20);

/// How often a connection that is silent looks whether it still is.
const SILENCE: Duration = Duration::from_millis(20);

/// What a server does with new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Answers each request with its name, so many milliseconds after it came.
    Answer {
        /// The delay.
        after_ms: u64,
    },
    /// Takes one connection in so many milliseconds, whatever comes.
    Accept {
        /// The distance between two.
        every_ms: u64,
    },
    /// Does not listen: the kernel refuses.
    Refuse,
    /// Accepts, and resets before a byte is sent.
    Reset,
    /// Listens with a queue that is full: handshakes get no answer.
    Swallow,
}

impl Act {
    /// As a healthy server does.
    pub(crate) const ANSWER: Self = Self::Answer { after_ms: 0 };
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { after_ms } => write!(f, "answer:{after_ms}"),
            Self::Accept { every_ms } => write!(f, "accept:{every_ms}"),
            Self::Refuse => f.write_str("refuse"),
            Self::Reset => f.write_str("reset"),
            Self::Swallow => f.write_str("swallow"),
        }
    }
}

impl FromStr for Act {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once(':') {
            Some(("answer", after_ms)) => Self::Answer { after_ms: after_ms.parse()? },
            Some(("accept", every_ms)) => Self::Accept { every_ms: every_ms.parse()? },
            None if text == "refuse" => Self::Refuse,
            None if text == "reset" => Self::Reset,
            None if text == "swallow" => Self::Swallow,
            _ => bail!("no such act: {text}"),
        })
    }
}

/// An address of the server with this index.
pub(crate) fn address(index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port(index)))
}

fn port(index: usize) -> u16 {
    u16::try_from(index).map_or(u16::MAX, |index| FIRST_PORT + index)
}

/// Servers on a node.
pub(crate) struct Actors {
    process: Process,
    output: BufReader<ChildStdout>,
}

impl Actors {
    /// Starts a server for each name; all answer when this returns.
    pub(crate) fn start(node: &Node, names: &[&str]) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = node.command(&own, Place::Beside)?;
        command.arg("actors").args(names).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            Process::start_with_input("the servers", &mut command, &node.directory().join("actors.log"))?;
        let output = BufReader::new(process.take_stdout().context("the servers have no output")?);
        let mut actors = Self { process, output };
        actors.expect("listening")?;
        Ok(actors)
    }

    /// Makes the server with this index do something else with new connections; those that are open go on.
    pub(crate) fn play(&mut self, index: usize, act: Act) -> anyhow::Result<()> {
        self.say(&format!("{index} {act}"))?;
        self.expect("done")
    }

    /// The same, and open connections share the fate: they end, or get no answers any more.
    pub(crate) fn play_all(&mut self, index: usize, act: Act) -> anyhow::Result<()> {
        self.say(&format!("{index} all {act}"))?;
        self.expect("done")
    }

    /// How many connections the server with this index has accepted so far.
    pub(crate) fn accepted(&mut self, index: usize) -> anyhow::Result<u64> {
        self.say(&format!("{index} accepted"))?;
        let line = self.line()?;
        line.parse().with_context(|| format!("the servers said {line:?}"))
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.process.input().context("the servers have no input")?;
        writeln!(input, "{line}").context("the servers are gone")
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        let line = self.line()?;
        if line != word {
            bail!("the servers said {line:?}; their log:\n{}", self.process.log_tail());
        }
        Ok(())
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("the servers are gone")?;
        Ok(line.trim().to_owned())
    }
}

/// Which servers to be.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The names, in the order of ports.
    names: Vec<String>,
}

/// Serves until killed or told no more.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut actors = Vec::new();
    for (index, name) in arguments.names.iter().enumerate() {
        actors.push(Actor::start(name.clone(), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port(index))))?);
    }
    say("listening")?;
    for line in stdin().lock().lines() {
        let line = line.context("cannot read the input")?;
        say(&obey(&mut actors, &line).unwrap_or_else(|error| format!("error: {error:#}")))?;
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(stdout().lock(), "{line}").context("cannot write the output")
}

fn obey(actors: &mut [Actor], line: &str) -> anyhow::Result<String> {
    let (index, order) = line.split_once(' ').context("no order")?;
    let actor = actors.get_mut(index.parse::<usize>()?).context("no such server")?;
    if order == "accepted" {
        return Ok(actor.open.accepted.load(Ordering::Relaxed).to_string());
    }
    match order.strip_prefix("all ") {
        Some(act) => actor.play_all(act.parse()?)?,
        None => actor.play(order.parse()?)?,
    }
    Ok("done".into())
}

/// A server's connections.
#[derive(Default)]
struct Open {
    /// How many there were so far.
    accepted: AtomicU64,
    /// Those that are open.
    streams: Mutex<HashMap<u64, TcpStream>>,
    /// Whether they get no answers.
    silent: AtomicBool,
}

impl Open {
    /// Counts a connection.
    fn accept(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed)
    }

    /// Answers a connection's requests. A client that goes away in the middle is its own business.
    fn serve(&self, number: u64, stream: TcpStream, name: &str, delay: Duration) {
        let Ok(kept) = stream.try_clone() else { return };
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(number, kept);
        drop(answer(stream, name, || {
            thread::sleep(delay);
            let silent = self.silent.load(Ordering::Relaxed);
            while self.silent.load(Ordering::Relaxed) {
                thread::sleep(SILENCE);
            }
            // What was asked of a dead server is not answered when it is back.
            !silent
        }));
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    fn end_all(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // One that has ended already is as wanted.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// One server.
struct Actor {
    name: String,
    address: SocketAddr,
    open: Arc<Open>,
    listener: Option<TcpListener>,
    accepting: Option<JoinHandle<()>>,
    /// What fills the queue of a listener that swallows.
    fillers: Vec<TcpStream>,
}

impl Actor {
    fn start(name: String, address: SocketAddr) -> anyhow::Result<Self> {
        let open = Arc::new(Open::default());
        let mut actor = Self { name, address, open, listener: None, accepting: None, fillers: Vec::new() };
        actor.play(Act::ANSWER)?;
        Ok(actor)
    }

    fn play_all(&mut self, act: Act) -> anyhow::Result<()> {
        self.play(act)?;
        self.open.silent.store(act == Act::Swallow, Ordering::Relaxed);
        if matches!(act, Act::Refuse | Act::Reset) {
            self.open.end_all();
        }
        Ok(())
    }

    fn play(&mut self, act: Act) -> anyhow::Result<()> {
        self.stop();
        if act == Act::Refuse {
            return Ok(());
        }
        let listener =
            TcpListener::bind(self.address).with_context(|| format!("cannot listen on {}", self.address))?;
        match act {
            Act::Swallow => {
                set_backlog(&listener, 0)?;
                let at = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
                let fill = |_| TcpStream::connect_timeout(&at, FILLER_LIMIT).ok();
                self.fillers = (0..FILLERS).filter_map(fill).collect();
            }
            _ => {
                set_backlog(&listener, BACKLOG)?;
                let stage = Stage { name: self.name.clone(), act, open: Arc::clone(&self.open) };
                let ours = listener.try_clone().context("cannot duplicate a listener")?;
                self.accepting = Some(thread::spawn(move || stage.accept(&ours)));
            }
        }
        self.listener = Some(listener);
        Ok(())
    }

    /// Stops listening. What is accepted goes on.
    fn stop(&mut self) {
        self.fillers.clear();
        if let Some(listener) = self.listener.take() {
            // SAFETY: a plain system call on a descriptor that is open. It wakes the thread that accepts.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        if let Some(accepting) = self.accepting.take() {
            // It says so on stderr if it panicked.
            let _ = accepting.join();
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Also changes the queue of a socket that listens already.
fn set_backlog(listener: &TcpListener, backlog: i32) -> anyhow::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    if unsafe { libc::listen(listener.as_raw_fd(), backlog) } != 0 {
        return Err(io::Error::last_os_error()).context("listen");
    }
    Ok(())
}

/// What the thread that accepts knows.
struct Stage {
    name: String,
    act: Act,
    open: Arc<Open>,
}

impl Stage {
    /// Until the listener is shut down.
    fn accept(self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            let number = self.open.accept();
            let delay = match self.act {
                Act::Reset => {
                    reset(stream);
                    continue;
                }
                Act::Accept { every_ms } => {
                    thread::sleep(Duration::from_millis(every_ms));
                    Duration::ZERO
                }
                Act::Answer { after_ms } => Duration::from_millis(after_ms),
                Act::Refuse | Act::Swallow => return,
            };
            let (name, open) = (self.name.clone(), Arc::clone(&self.open));
            thread::spawn(move || open.serve(number, stream, &name, delay));
        }
    }
}

/// Closes a connection so that the other side gets a reset.
fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of_val(&linger)).unwrap_or_default();
    // SAFETY: the option outlives the call, and the size is its own.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        );
    }
    drop(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::time::Instant;

    use crate::connection::Connection;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server at a port of its own, and the address.
    fn actor() -> (Actor, SocketAddr) {
        let mut actor = Actor::start("payment-a".into(), "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = actor.listener.as_ref().unwrap().local_addr().unwrap();
        // From here on the port stays the same.
        actor.address = address;
        (actor, address)
    }

    fn ask(address: SocketAddr) -> anyhow::Result<String> {
        Connection::open(address, LIMIT)?.ask("close")
    }

    #[test]
    fn every_act_is_written_as_it_is_read() {
        let acts =
            [Act::Answer { after_ms: 7 }, Act::Accept { every_ms: 3 }, Act::Refuse, Act::Reset, Act::Swallow];
        for act in acts {
            assert_eq!(act.to_string().parse::<Act>().unwrap(), act);
        }
        assert!("dance".parse::<Act>().is_err());
    }

    #[test]
    fn a_server_changes_what_it_does_and_comes_back() {
        let (mut actor, address) = actor();
        assert_eq!(ask(address).unwrap(), "payment-a");
        actor.play(Act::Refuse).unwrap();
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        actor.play(Act::Reset).unwrap();
        assert!(ask(address).is_err());
        actor.play(Act::Swallow).unwrap();
        let error = TcpStream::connect_timeout(&address, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        actor.play(Act::ANSWER).unwrap();
        assert_eq!(ask(address).unwrap(), "payment-a");
        assert_eq!(actor.open.accepted.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_slow_answer_takes_as_long_as_it_was_told() {
        let (mut actor, address) = actor();
        actor.play(Act::Answer { after_ms: 50 }).unwrap();
        let begin = Instant::now();
        assert_eq!(ask(address).unwrap(), "payment-a");
        assert!(begin.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn open_connections_share_the_fate_where_all_are_meant() {
        let (mut actor, address) = actor();
        let mut connection = Connection::open(address, Duration::from_millis(200)).unwrap();
        assert_eq!(connection.ask("keep-alive").unwrap(), "payment-a");
        actor.play_all(Act::Swallow).unwrap();
        assert!(connection.ask("keep-alive").is_err(), "silent");
        actor.play_all(Act::ANSWER).unwrap();
        let mut connection = Connection::open(address, LIMIT).unwrap();
        assert_eq!(connection.ask("keep-alive").unwrap(), "payment-a");
        actor.play_all(Act::Refuse).unwrap();
        assert!(connection.ask("keep-alive").is_err(), "ended");
    }

    #[test]
    fn an_open_connection_outlives_what_befalls_new_ones() {
        let (mut actor, address) = actor();
        let mut connection = Connection::open(address, LIMIT).unwrap();
        assert_eq!(connection.ask("keep-alive").unwrap(), "payment-a");
        actor.play(Act::Refuse).unwrap();
        assert_eq!(connection.ask("keep-alive").unwrap(), "payment-a");
    }
}
