//! Servers a test runs inside its namespace: TCP and UDP echo that say their name first, HTTP that answers with
//! it, and a port that never answers. In this process, outside the managed cgroup. Knows nothing of Segue.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::address;
use crate::namespace::Namespace;
use crate::sockopt;
use crate::wait::patient;

/// How often a UDP server looks whether it should end.
const UDP_TICK: Duration = Duration::from_millis(50);

/// A server; it and its connections end on drop.
#[derive(Debug)]
pub struct Server {
    name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicU64,
    received: AtomicU64,
    resets_new: AtomicBool,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Server {
    /// A TCP server: says `NAME\n`, then echoes until the client has closed, then closes.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn tcp(namespace: &Namespace, name: &str, at: &str) -> Self {
        Self::accepting(namespace, name, at, |name, stream, shared| greet_and_echo(&name, stream, shared))
    }

    /// An HTTP/1.1 server: answers every request with `NAME\n`.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn http(namespace: &Namespace, name: &str, at: &str) -> Self {
        Self::accepting(namespace, name, at, |name, stream, _| answer_requests(&name, stream))
    }

    /// A UDP server: answers `NAME:` and the question.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn udp(namespace: &Namespace, name: &str, at: &str) -> Self {
        let at = address(at);
        let socket =
            namespace.run(|| UdpSocket::bind(at)).unwrap_or_else(|error| panic!("{name} at {at}: {error}"));
        socket.set_read_timeout(Some(UDP_TICK)).expect("a timeout on a socket of ours");
        let shared = Arc::new(Shared::default());
        let (state, label) = (Arc::clone(&shared), name.to_owned());
        let thread = std::thread::spawn(move || answer_datagrams(&label, &socket, &state));
        Self { name: name.to_owned(), address: at, shared, listener: None, thread: Some(thread) }
    }

    fn accepting(
        namespace: &Namespace,
        name: &str,
        at: &str,
        serve: impl Fn(String, TcpStream, &Shared) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let at = address(at);
        let listener =
            namespace.run(|| TcpListener::bind(at)).unwrap_or_else(|error| panic!("{name} at {at}: {error}"));
        Self::serving(listener, name, at, serve)
    }

    fn serving(
        listener: TcpListener,
        name: &str,
        at: SocketAddr,
        serve: impl Fn(String, TcpStream, &Shared) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        allow_fast_open(&listener);
        let shared = Arc::new(Shared::default());
        let (state, label) = (Arc::clone(&shared), name.to_owned());
        let accepting = listener.try_clone().expect("a second descriptor");
        let serve = Arc::new(serve);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let id = state.accepted.fetch_add(1, Ordering::Relaxed);
                let (Ok(kept), false) = (stream.try_clone(), state.stop.load(Ordering::Relaxed)) else {
                    return;
                };
                // Decided before it counts as open: who saw it open may say that new ones are to be reset.
                let is_reset = state.resets_new.load(Ordering::Relaxed);
                state.connections().insert(id, kept);
                let (state, label, serve) = (Arc::clone(&state), label.clone(), Arc::clone(&serve));
                std::thread::spawn(move || {
                    if is_reset {
                        reset(&stream);
                        state.connections().remove(&id);
                        return;
                    }
                    // A client that goes away in the middle is what some tests are about.
                    let _gone = serve(label, stream, &state);
                    state.connections().remove(&id);
                });
            }
        });
        Self { name: name.to_owned(), address: at, shared, listener: Some(listener), thread: Some(thread) }
    }

    /// The name it says.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections (or datagrams) it took so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.connections().len()
    }

    /// Payload bytes it received so far over TCP.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Ends every open connection in good order: says that it is done.
    pub fn finish_connections(&self) {
        for stream in self.shared.connections().values() {
            // A connection the client has ended by now is finished already.
            let _finished = stream.shutdown(Shutdown::Write);
        }
    }

    /// Ends every open connection with a reset.
    pub fn reset_connections(&self) {
        for (_, stream) in self.shared.connections().drain() {
            reset(&stream);
        }
    }

    /// From now on accepts connections and resets them before it has said a word, or no longer does so.
    pub fn reset_new_connections(&self, resets: bool) {
        self.shared.resets_new.store(resets, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // SAFETY: shutdown takes integers; on a listening socket it ends a pending accept.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        for (_, stream) in self.shared.connections().drain() {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP port whose queue is full: a SYN to it gets no answer at all.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    listener: TcpListener,
    waiting: Vec<TcpStream>,
}

impl BlackHole {
    /// Listens at `at` with the shortest queue and fills it.
    ///
    /// # Panics
    /// When the address is taken or the queue does not fill.
    pub fn new(namespace: &Namespace, at: &str) -> Self {
        let at = address(at);
        namespace.run(|| {
            let listener =
                TcpListener::bind(at).unwrap_or_else(|error| panic!("black hole at {at}: {error}"));
            // SAFETY: listen takes integers; a second call only changes the length of the queue.
            assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
            let mut waiting = Vec::new();
            for _ in 0..8 {
                match TcpStream::connect_timeout(&at, patient(Duration::from_millis(100))) {
                    Ok(stream) => waiting.push(stream),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Self { address: at, listener, waiting };
                    }
                    Err(error) => panic!("black hole at {at}: {error}"),
                }
            }
            panic!("the queue at {at} does not fill")
        })
    }

    /// Makes it a TCP server that says its name: a handshake that waits is done with its next SYN.
    pub fn answer(self, name: &str) -> Server {
        drop(self.waiting);
        // SAFETY: listen takes integers; a second call only changes the length of the queue.
        assert_eq!(unsafe { libc::listen(self.listener.as_raw_fd(), 128) }, 0);
        Server::serving(self.listener, name, self.address, |name, stream, shared| {
            greet_and_echo(&name, stream, shared)
        })
    }
}

/// Some kernels refuse to dissolve a connection on which a thread waits in recvmsg(2) (EBUSY; Linux 6.5, and what was
/// taken into older series from it): whoever reads here waits in poll(2), see [`Awaited`].
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let socket = stream.as_raw_fd();
    let reset = sockopt::set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
        .and_then(|()| sockopt::disconnect(socket));
    // A connection the client has ended by now needs no reset.
    assert_ne!(reset.err().and_then(|error| error.raw_os_error()), Some(libc::EBUSY), "a thread waits in it");
}

/// A connection that is read without a thread waiting inside the kernel's read.
struct Awaited(TcpStream);

impl Read for Awaited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waited = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one record, which lives as long as the call; -1 waits for ever.
        while unsafe { libc::poll(&raw mut waited, 1, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.0.read(buffer)
    }
}

fn greet_and_echo(name: &str, mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut awaited = Awaited(stream.try_clone()?);
    stream.write_all(format!("{name}\n").as_bytes())?;
    let mut buffer = [0; 64 * 1024];
    loop {
        let length = awaited.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Both);
        }
        shared.received.fetch_add(length as u64, Ordering::Relaxed);
        stream.write_all(&buffer[..length])?;
    }
}

fn answer_requests(name: &str, stream: TcpStream) -> io::Result<()> {
    let mut requests = BufReader::new(Awaited(stream.try_clone()?)).lines();
    let mut stream = stream;
    while let Some(mut line) = requests.next().transpose()? {
        while !line.is_empty() {
            line = requests.next().transpose()?.unwrap_or_default();
        }
        let body = format!("{name}\n");
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

fn answer_datagrams(name: &str, socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2048];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let mut answer = format!("{name}:").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // A client that went away does not end the server.
        let _sent = socket.send_to(&answer, from);
    }
}

fn allow_fast_open(listener: &TcpListener) {
    let queue: libc::c_int = 16;
    sockopt::set(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &queue)
        .expect("TCP_FASTOPEN on a listener");
}
