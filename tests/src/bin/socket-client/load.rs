//! Connections one after the other: connect, hear the server's name, close.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use segue_tests::client::protocol::Attempt;
use segue_tests::wait::patient;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A loop of greetings on a thread.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU32>,
    thread: JoinHandle<Vec<Attempt>>,
}

impl Load {
    pub(crate) fn start(to: SocketAddr, count: u32, pause_us: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicU32::new(0));
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            let mut attempts = Vec::new();
            while !stopped.load(Ordering::Relaxed) && done.fetch_add(1, Ordering::Relaxed) < count {
                attempts.push(attempt(|| greet(to)));
                std::thread::sleep(Duration::from_micros(pause_us));
            }
            attempts
        });
        Self { stop, progress, thread }
    }

    pub(crate) fn progress(&self) -> u32 {
        self.progress.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the loop ended")
    }
}

pub(crate) fn repeat(count: u32, mut action: impl FnMut() -> io::Result<String>) -> Vec<Attempt> {
    (0..count).map(|_| attempt(&mut action)).collect()
}

/// Greets on so many threads side by side, each so many times.
pub(crate) fn crowd(to: SocketAddr, threads: u32, each: u32) -> Vec<Attempt> {
    side_by_side(threads, || repeat(each, || greet(to))).into_iter().flatten().collect()
}

/// Connects on so many threads at the same moment; what is open then, and how each went.
pub(crate) fn connect_together(to: SocketAddr, count: u32) -> (Vec<Held>, Vec<Attempt>) {
    let mut held = Vec::new();
    let attempts = side_by_side(count, || TcpStream::connect(to))
        .into_iter()
        .map(|connected| {
            attempt(|| {
                held.push(Held { stream: BufReader::new(connected?), greeted: false, sent: 0 });
                Ok(String::new())
            })
        })
        .collect();
    (held, attempts)
}

/// A connection that is kept.
pub(crate) struct Held {
    stream: BufReader<TcpStream>,
    /// Whether the server's name was read.
    greeted: bool,
    /// Bytes sent so far; where in the pattern the next begin.
    sent: usize,
}

/// Sends so many bytes and receives as many, which must be the same.
pub(crate) fn exchange(held: &mut Held, bytes: u32) -> io::Result<()> {
    held.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
    if !held.greeted {
        held.stream.read_line(&mut String::new())?;
        held.greeted = true;
    }
    // 251 is prime: no buffer's length hides bytes that are lost or come twice.
    let pattern: Vec<u8> = (0..251).cycle().skip(held.sent % 251).take(bytes as usize).collect();
    held.sent += pattern.len();
    held.stream.get_mut().write_all(&pattern)?;
    let mut echo = vec![0; pattern.len()];
    held.stream.read_exact(&mut echo)?;
    if echo == pattern { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn side_by_side<T: Send>(threads: u32, action: impl Fn() -> T + Sync) -> Vec<T> {
    let start = Barrier::new(threads as usize);
    std::thread::scope(|scope| {
        let run = || {
            start.wait();
            action()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread that connects ended")).collect()
    })
}

pub(crate) fn greet(to: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(patient(PATIENCE)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

pub(crate) fn question(to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(patient(PATIENCE)))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..length]);
    Ok(text.split(':').next().unwrap_or_default().to_owned())
}

fn attempt(action: impl FnOnce() -> io::Result<String>) -> Attempt {
    action().map_err(|error| error.raw_os_error().unwrap_or(libc::EPROTO))
}
