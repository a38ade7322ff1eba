//! An API server of Kubernetes for tests: it speaks the real wire protocol (lists in pages, watches, bookmarks, resource
//! versions, `410 Gone`, `429`, chunked streams, status by merge patch) and does what is asked of it, also the wrong thing.
//! It holds whatever objects it is given and knows nothing of Segue.

mod answer;
pub mod objects;
mod store;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::client::address;
use crate::namespace::Namespace;
use store::Store;

/// What the server does besides answering.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// The only token it knows; `None`: whoever asks may.
    pub token: Option<String>,
    /// Requests whose path contains this text get this code.
    pub refuses: Vec<(String, u16)>,
    /// It takes connections and answers nothing.
    pub is_silent: bool,
    /// Every stream of a watch is cut after so many bytes.
    pub cut_after: Option<usize>,
    /// A pause before each answer.
    pub delay: Duration,
    /// Pages have at most so many objects, whatever was asked for.
    pub page: Option<usize>,
    /// The answer to a watch that asks for too old a version comes as a status code instead of an event.
    pub gone_by_status: bool,
}

/// A request that was made, as `METHOD PATH?QUERY`, and ` (metadata)` where no more was wanted.
pub type Request = String;

/// The server. Its connections end when it goes.
pub struct KubeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    changed: Condvar,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
    /// Raised to end all streams that began before.
    round: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KubeApi {
    /// A server without objects, in a namespace of a test.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn start(namespace: &Namespace, at: &str) -> Self {
        let at = address(at);
        let listener = namespace.run(|| TcpListener::bind(at));
        Self::serving(listener.unwrap_or_else(|error| panic!("an API server at {at}: {error}")))
    }

    /// A server without objects, on a socket that listens.
    ///
    /// # Panics
    /// When the socket has no address.
    pub fn serving(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a socket that listens has an address");
        let shared = Arc::new(Shared::default());
        let (accepting, state) = (listener.try_clone().expect("a second descriptor"), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                if state.stop.load(Ordering::Relaxed) {
                    return;
                }
                let _no_delay = stream.set_nodelay(true);
                let Ok(kept) = stream.try_clone() else { return };
                lock(&state.open).push(kept);
                let state = Arc::clone(&state);
                std::thread::spawn(move || {
                    // A client that goes away in the middle is what some tests are about.
                    let _gone = serve(&stream, &state);
                    let _closed = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared, listener: Some(listener), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig that leads here, with the token that it knows.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        self.kubeconfig_for(directory, &format!("http://{}", self.address), "")
    }

    /// Writes a kubeconfig that leads to `server`, with further lines for the cluster.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn kubeconfig_for(&self, directory: &Path, server: &str, cluster: &str) -> PathBuf {
        let token = lock(&self.shared.behaviour).token.clone().unwrap_or_default();
        let (token_file, file) = (directory.join("token"), directory.join("kubeconfig"));
        std::fs::write(&token_file, token).expect("a token can be written");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: \
             {server}\n{cluster}users:\n- name: test\n  user:\n    tokenFile: {}\ncontexts:\n- name: test\n  \
             context: {{ cluster: test, user: test }}\n",
            token_file.display()
        );
        std::fs::write(&file, text).expect("a kubeconfig can be written");
        file
    }

    /// Makes the cluster know a kind of its own, as the definition of a custom resource does.
    pub fn define(&self, path: &str, kind: &str) {
        self.store().define(path, kind);
    }

    /// Adds an object, or replaces the one of its name.
    ///
    /// # Panics
    /// When it has no `apiVersion`, `kind` and `metadata.name`, or is of a kind that is not known.
    pub fn put(&self, object: &Value) {
        self.store().put(object);
        self.shared.changed.notify_all();
    }

    /// Removes an object.
    ///
    /// # Panics
    /// When there is none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.store().delete(kind, namespace, name);
        self.shared.changed.notify_all();
    }

    /// An object as it is now.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.store().get(kind, namespace, name)
    }

    /// Sends every watch a bookmark.
    pub fn bookmark(&self) {
        self.store().bookmark();
        self.shared.changed.notify_all();
    }

    /// Forgets what happened so far: who asks for an older version than the newest has to list anew.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Ends all connections in the middle of whatever they were doing.
    pub fn break_connections(&self) {
        *lock(&self.shared.round) += 1;
        for stream in lock(&self.shared.open).drain(..) {
            let _ended = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Changes what it does from the next request on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.shared.behaviour));
    }

    /// Goes away as if the host had died: nobody listens there any more.
    pub fn die(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // SAFETY: shutdown takes a descriptor that is open, and wakes the thread that accepts.
            unsafe { libc::shutdown(std::os::fd::AsRawFd::as_raw_fd(&listener), libc::SHUT_RDWR) };
        }
        self.break_connections();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.shared.store)
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.die();
    }
}

/// The head of a request, and its body.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) token: Option<String>,
    /// Only the metadata of objects is wanted.
    pub(crate) is_partial: bool,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(&mut reader)? {
        let target = match asked.query.is_empty() {
            true => asked.path.clone(),
            false => {
                let pairs = asked.query.iter().map(|(key, value)| format!("{key}={value}"));
                format!("{}?{}", asked.path, pairs.collect::<Vec<_>>().join("&"))
            }
        };
        let wanted = if asked.is_partial { " (metadata)" } else { "" };
        lock(&shared.requests).push(format!("{} {target}{wanted}", asked.method));
        let behaviour = lock(&shared.behaviour).clone();
        if behaviour.is_silent {
            // Until the client, or the test, has had enough.
            let mut nothing = [0; 64];
            while reader.read(&mut nothing)? > 0 {}
            return Ok(());
        }
        std::thread::sleep(behaviour.delay);
        if !answer::answer(stream, shared, &asked, &behaviour)? {
            return Ok(());
        }
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(key), unescaped(value))
    });
    let mut asked = Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.collect(),
        token: None,
        is_partial: false,
        body: Vec::new(),
    };
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "accept" => asked.is_partial = value.contains("as=PartialObjectMetadata"),
            "authorization" => asked.token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    asked.body = vec![0; length];
    reader.read_exact(&mut asked.body)?;
    Ok(Some(asked))
}

/// `%2F` and `+` as what they stand for.
fn unescaped(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let digits = std::str::from_utf8(&digits).unwrap_or("00");
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Writes a whole answer of JSON.
pub(crate) fn write_json(mut stream: &TcpStream, code: u16, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
