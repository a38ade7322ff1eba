//! An application that does what it is told: one command a line on standard input, one answer a line on
//! standard output. It knows nothing of Segue, as an application should.

mod load;
mod settled;
mod socket;

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use load::Load;
use segue_tests::client::protocol::{Answer, Command};
use segue_tests::sockopt;
use serde_json::{Value, json};

/// The sockets by the names the test gave them, and what runs beside.
#[derive(Default)]
struct Client {
    sockets: HashMap<String, OwnedFd>,
    load: Option<Load>,
    together: Vec<load::Held>,
    holder: Option<libc::pid_t>,
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("receive") {
        return receiver();
    }
    let mut client = Client::default();
    for line in io::stdin().lock().lines() {
        let command = serde_json::from_str(&line?)?;
        let answer = answer_of(client.execute(command));
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
        stdout.flush()?;
    }
    Ok(())
}

impl Client {
    fn execute(&mut self, command: Command) -> io::Result<Value> {
        match command {
            Command::Open { socket, family, kind } => {
                self.sockets.insert(socket, socket::open(family, kind)?);
                Ok(Value::Null)
            }
            Command::Close { socket } => {
                self.sockets.remove(&socket).ok_or_else(unknown_socket)?;
                Ok(Value::Null)
            }
            Command::Duplicate { socket, copy } => {
                let duplicate = self.sockets.get(&socket).ok_or_else(unknown_socket)?.try_clone()?;
                self.sockets.insert(copy, duplicate);
                Ok(Value::Null)
            }
            Command::InChild { then } => self.in_child(*then),
            Command::InReceiver { socket, then } => self.in_receiver(&socket, &then),
            Command::StartHolder => self.start_holder(),
            Command::EndHolder => self.end_holder(),
            Command::Greetings { to, count } => Ok(json!(load::repeat(count, || load::greet(to)))),
            Command::Questions { to, count } => Ok(json!(load::repeat(count, || load::question(to)))),
            Command::Crowd { to, threads, each } => Ok(json!(load::crowd(to, threads, each))),
            Command::ConnectTogether { to, count } => {
                let (streams, attempts) = load::connect_together(to, count);
                self.together.extend(streams);
                Ok(json!(attempts))
            }
            Command::ExchangeTogether { bytes } => {
                let wrong =
                    self.together.iter_mut().filter_map(|held| load::exchange(held, bytes).err()).count();
                Ok(json!(wrong))
            }
            Command::ReleaseTogether => {
                self.together.clear();
                Ok(Value::Null)
            }
            Command::StartLoad { to, count, pause_us } => {
                self.load = Some(Load::start(to, count, pause_us));
                Ok(Value::Null)
            }
            Command::LoadProgress => Ok(json!(self.load.as_ref().map_or(0, Load::progress))),
            Command::StopLoad => Ok(json!(self.load.take().map(Load::stop).unwrap_or_default())),
            other => self.on_socket(other),
        }
    }

    fn on_socket(&self, command: Command) -> io::Result<Value> {
        let find = |name: &str| self.sockets.get(name).map(AsRawFd::as_raw_fd).ok_or_else(unknown_socket);
        let done = |()| Value::Null;
        match command {
            Command::Connect { socket, to, nonblocking } => {
                socket::connect(find(&socket)?, to, nonblocking).map(done)
            }
            Command::ConnectAs { socket, to, family, nonblocking } => {
                socket::connect_as(find(&socket)?, to, family, nonblocking).map(done)
            }
            Command::Bind { socket, at } => socket::bind(find(&socket)?, at).map(done),
            Command::FinishConnect { socket } => socket::finish_connect(find(&socket)?).map(done),
            Command::Disconnect { socket } => sockopt::disconnect(find(&socket)?).map(done),
            Command::Peer { socket } => socket::peer(find(&socket)?).map(|text| json!(text)),
            Command::Local { socket } => socket::local(find(&socket)?).map(|text| json!(text)),
            Command::Send { socket, text } => socket::send(find(&socket)?, text.as_bytes()).map(done),
            Command::SendTo { socket, text, to } => socket::send_to(find(&socket)?, &text, to, 0).map(done),
            Command::FastOpen { socket, text, to } => {
                socket::send_to(find(&socket)?, &text, to, libc::MSG_FASTOPEN).map(done)
            }
            Command::Receive { socket } => socket::receive(find(&socket)?).map(|text| json!(text)),
            Command::ReceiveFrom { socket } => {
                socket::receive_from(find(&socket)?).map(|datagram| json!(datagram))
            }
            Command::ReceiveAll { .. }
            | Command::Events { .. }
            | Command::TakeError { .. }
            | Command::Patience { .. }
            | Command::SetUserTimeout { .. }
            | Command::UserTimeout { .. }
            | Command::Shutdown { .. } => settled::execute(command, find),
            Command::ReadLine { socket } => socket::read_line(find(&socket)?).map(|text| json!(text)),
            Command::Drain { socket } => socket::drain(find(&socket)?).map(|count| json!(count)),
            Command::Exchange { socket, bytes } => socket::exchange(find(&socket)?, bytes).map(done),
            Command::ResetOnClose { socket } => socket::reset_on_close(find(&socket)?).map(done),
            Command::ShutdownWrite { socket } => socket::shutdown_write(find(&socket)?).map(done),
            other => panic!("{other:?} concerns no single socket"),
        }
    }

    /// Does `then` in a forked child, which writes its answer into a pipe.
    fn in_child(&mut self, then: Command) -> io::Result<Value> {
        let (mut parent, child) = UnixStream::pair()?;
        // SAFETY: this process has one thread unless a load runs, and tests do not mix the two.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(parent);
                let answer = answer_of(self.execute(then));
                let sent = serde_json::to_writer(child, &answer);
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(i32::from(sent.is_err())) }
            }
            pid => {
                drop(child);
                let answer = io::read_to_string(&mut parent)?;
                reap(pid)?;
                result_of(serde_json::from_str(&answer)?)
            }
        }
    }

    /// Does `then` in a fresh process that gets the socket as a file descriptor over a unix socket.
    fn in_receiver(&self, name: &str, then: &Command) -> io::Result<Value> {
        let descriptor = self.sockets.get(name).ok_or_else(unknown_socket)?;
        let (ours, theirs) = UnixStream::pair()?;
        let channel = OwnedFd::from(theirs);
        let raw = channel.as_raw_fd();
        let mut process = std::process::Command::new(std::env::current_exe()?);
        process.arg("receive").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        process.env("SOCKET", name).env("THEN", serde_json::to_string(then)?);
        // SAFETY: dup2 is async-signal-safe; it gives the receiver its end as descriptor 3.
        unsafe {
            process.pre_exec(
                move || if libc::dup2(raw, 3) == 3 { Ok(()) } else { Err(io::Error::last_os_error()) },
            );
        }
        let child = process.spawn()?;
        drop(channel);
        socket::pass_descriptor(ours.as_raw_fd(), descriptor.as_raw_fd())?;
        let output = child.wait_with_output()?;
        result_of(serde_json::from_slice(&output.stdout)?)
    }

    /// Forks a child that only keeps the sockets open.
    fn start_holder(&mut self) -> io::Result<Value> {
        // SAFETY: this process has one thread unless a load runs; the child only waits.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: pause returns only by a signal; the child dies with its parent at the latest.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            },
            pid => {
                self.holder = Some(pid);
                Ok(Value::Null)
            }
        }
    }

    fn end_holder(&mut self) -> io::Result<Value> {
        let pid = self.holder.take().ok_or_else(unknown_socket)?;
        // SAFETY: kill takes integers; the child is ours and not yet reaped.
        if unsafe { libc::kill(pid, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        reap(pid).map(|()| Value::Null)
    }
}

/// The process of [`Client::in_receiver`].
fn receiver() -> io::Result<()> {
    // SAFETY: the parent put its end of the unix socket at descriptor 3, and nobody else here owns it.
    let channel = unsafe { OwnedFd::from_raw_fd(3) };
    let passed: RawFd = socket::take_descriptor(channel.as_raw_fd())?;
    // SAFETY: the kernel has just installed this descriptor for us.
    let passed = unsafe { OwnedFd::from_raw_fd(passed) };
    let variable = |name| std::env::var(name).map_err(io::Error::other);
    let mut client = Client::default();
    client.sockets.insert(variable("SOCKET")?, passed);
    let answer = answer_of(client.execute(serde_json::from_str(&variable("THEN")?)?));
    for (_, socket) in client.sockets.drain() {
        // Left to the end of the process, as an application would.
        let _ = socket.into_raw_fd();
    }
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

fn reap(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: a null status pointer is allowed; the child is ours.
    if unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } == pid {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn unknown_socket() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

fn answer_of(result: io::Result<Value>) -> Answer {
    match result {
        Ok(value) => Answer::Ok(value),
        Err(error) => Answer::Errno(error.raw_os_error().unwrap_or(libc::EPROTO)),
    }
}

fn result_of(answer: Answer) -> io::Result<Value> {
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}
