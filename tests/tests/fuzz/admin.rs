//! The admin API: any request is answered in HTTP or hung up on, what is no order is refused, and the next
//! request is served as if nothing had happened.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use segue_agent::admin::view::{
    AcceptError, AcceptRequest, Accepted, Counters, Explanation, HeldView, OrderError, OrderRequest, Ordered,
    OverheadView, Readiness, RolloutError, RolloutRequest, RolloutView, ServiceMap, ServiceView, Status,
};
use segue_agent::admin::{Control, ExplainError, Followed, Observe, ObserveError, serve_admin};
use segue_agent::flows::{EdgeView, KnownNames, MemoryView, Record, RequestView, Selector, Window};
use segue_tests::wait::eventually;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::exposition::Edges;
use crate::{fuzz, lines};

const TOKENS: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e400",
    "18446744073709551616",
    "\"order\":\"open\"",
    "\"for_ms\":0",
    "\"backend\":\"[::1]:80\"",
    "\\u0000",
    "\\ud800",
    "%00",
    "%ff",
    "%",
    "&",
    "=",
    "+",
    "\r\n",
    " HTTP/1.1",
    "POST ",
    "GET /v1/explain?target=",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\n",
    "/v1/flows/follow",
    "/v1/flows/recent?not.to-service=*&last=3&since=2026-03-01T12:00:00Z",
    "/v1/flows?verdict=refused&http-status=5xx&method=GET",
    "/v1/map",
    "/v1/rollout",
    "/v1/held",
    "/v1/accept",
    "\"order\":\"rollback\"",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent that shows nothing, takes every order about a breaker, and has no canary.
struct Agent(Edges);

impl Observe for Agent {
    fn status(&self) -> Result<Status, ObserveError> {
        self.0.status()
    }

    fn services(&self) -> Result<Vec<ServiceView>, ObserveError> {
        self.0.services()
    }

    fn explain(&self, target: &str, asker: Option<&str>) -> Result<Explanation, ExplainError> {
        self.0.explain(target, asker)
    }

    fn held(&self) -> Vec<HeldView> {
        Vec::new()
    }

    fn rollouts(&self) -> Vec<RolloutView> {
        self.0.rollouts()
    }

    fn edges(&self) -> Result<Vec<EdgeView>, ObserveError> {
        self.0.edges()
    }

    fn requests(&self) -> Result<Vec<RequestView>, ObserveError> {
        self.0.requests()
    }

    fn map(&self) -> Result<ServiceMap, ObserveError> {
        self.0.map()
    }

    fn counters(&self) -> Result<Counters, ObserveError> {
        self.0.counters()
    }

    fn overhead(&self) -> OverheadView {
        self.0.overhead()
    }

    fn remembered(&self, selector: &Selector, window: Window) -> (Vec<Arc<Record>>, MemoryView) {
        self.0.remembered(selector, window)
    }

    fn follow(&self, selector: &Selector, window: Window, requests: bool) -> Followed {
        self.0.follow(selector, window, requests)
    }

    fn known_names(&self) -> KnownNames {
        self.0.known_names()
    }

    fn readiness(&self) -> Readiness {
        self.0.readiness()
    }
}

impl Control for Agent {
    fn order(&self, request: &OrderRequest) -> Result<Ordered, OrderError> {
        let OrderRequest { service, backend, order, for_ms } = request;
        Ok(Ordered {
            service: service.as_str().into(),
            order: *order,
            backends: backend.iter().copied().collect(),
            ends_in_ms: *for_ms,
        })
    }

    fn steer(&self, request: &RolloutRequest) -> Result<RolloutView, RolloutError> {
        Err(RolloutError::Unknown { service: request.service.clone() })
    }

    fn accept(&self, request: &AcceptRequest) -> Result<Accepted, AcceptError> {
        let named = request.services.first();
        named.map_or(Ok(Accepted::default()), |service| Err(AcceptError { service: service.clone() }))
    }
}

/// An admin API on a thread of its own, until it is dropped.
struct Api {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Api {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segue.sock");
        let (stop, stopped) = oneshot::channel::<()>();
        let at = path.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let stopped = async move { drop(stopped.await) };
            let served = serve_admin(&at, Arc::new(Agent(Edges(Vec::new()))), stopped);
            runtime.expect("a runtime").block_on(served).expect("the listener goes on");
        });
        eventually("the admin socket", PATIENCE, || UnixStream::connect(&path).map(drop));
        Self { path, stop: Some(stop), thread: Some(thread), _directory: directory }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there is the test's own failure already.
            let _ended = thread.join();
        }
    }
}

/// Sends bytes, says that this is all, and reads what comes until the other side has closed.
fn exchange(path: &Path, request: &[u8], is_whole: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).expect("the socket is served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The other side may hang up before it has read everything.
    let _refused = stream.write_all(request);
    if !is_whole {
        let _gone = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("no end of the answer: {error}; so far {:?}", String::from_utf8_lossy(&answer)),
    }
}

/// A request with this body or query, well-formed around it.
fn wrapped(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: segue\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The status and the JSON of an answer.
fn read(answer: &[u8]) -> (u16, Value) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    (status.unwrap_or_else(|| panic!("no status in {head:?}")), body)
}

fn check(path: &Path, bytes: &[u8]) {
    match bytes.first() {
        Some(b'{') => {
            let (status, answer) = read(&exchange(path, &wrapped("POST", "/v1/breaker", bytes), true));
            let order = serde_json::from_slice::<OrderRequest>(bytes);
            assert_eq!(status, if order.is_ok() { 200 } else { 400 }, "{answer}");
            assert_eq!(answer["error"].is_string(), order.is_err(), "{answer}");
        }
        Some(b'?') if bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') => {
            let query = String::from_utf8_lossy(bytes);
            let request = wrapped("GET", &format!("/v1/explain{query}"), b"");
            let answer = exchange(path, &request, true);
            // A target that is no URI is refused before there is anything to answer in JSON.
            if !answer.ends_with(b"\r\n\r\n") {
                let (status, answer) = read(&answer);
                assert!(status == 200 || status == 400, "{status} {answer}");
                assert_eq!(answer["target"].is_string(), status == 200, "{answer}");
            }
        }
        _ => {
            let answer = exchange(path, bytes, false);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
        }
    }
    let (status, _) = read(&exchange(path, &wrapped("GET", "/v1/flows", b""), true));
    assert_eq!(status, 200, "the next request");
}

#[test]
fn any_request_is_answered_or_hung_up_on_and_the_next_one_is_served() {
    let api = Api::start();
    let seeds: Vec<Vec<u8>> = lines(include_str!("../../seeds/admin_requests.txt"))
        .into_iter()
        .map(|line| String::from_utf8_lossy(&line).replace("\\r\\n", "\r\n").into_bytes())
        .collect();
    fuzz(&seeds, TOKENS, |bytes| check(&api.path, bytes));
}
