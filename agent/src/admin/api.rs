//! The admin API on a unix socket: who may connect, and what each path answers.

mod flows;

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use bytes::Bytes;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};

use super::view::{
    AcceptRequest, Failure, HeldViews, OrderError, OrderRequest, RolloutError, RolloutRequest, Rollouts,
    Services,
};
use super::{Control, ExplainError, ObserveError};

/// Readers of `/v1/flows/follow` at a time. Each costs a copy of every event.
const MAX_FOLLOWERS: usize = 16;

/// Lines that wait for one slow reader before records are dropped for it.
const FOLLOW_QUEUE: usize = 256;

/// Why a listener could not be opened, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process answers on the socket.
    #[error("{} is in use by another process; is an agent already running? Stop it, or choose another --socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path holds something that is no socket.
    #[error("{} exists and is no socket; remove it, or choose another --socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot open the admin socket {}: {source}; does its directory exist, and may this user write there?", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The TCP address cannot be listened on.
    #[error(
        "cannot listen on {address} for metrics: {source}; is another process using the port, or is the address not of this host?"
    )]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A listener stopped by itself.
    #[error("the listener on {name} stopped: {source}")]
    Stopped {
        /// The socket or address.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves the admin API on the unix socket at `path` until `shutdown` completes.
///
/// The socket has mode 0600, and only root and the agent's own user are answered. A socket file that nobody
/// answers on is replaced. Open streams end with the shutdown, and the file is removed.
///
/// # Errors
/// The socket cannot be made, or the listener fails. What goes wrong in a request is answered, not returned.
pub async fn serve_admin(
    path: &Path,
    agent: Arc<dyn Control>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let listener = bind(path)?;
    let made = std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let (stop, stopping) = watch::channel(false);
    let api = Api { agent, stopping, followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)) };
    let service = router(api).into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(listener, service)
        .with_graceful_shutdown(async move {
            shutdown.await;
            stop.send_replace(true);
        })
        .await;
    // A newer agent may have put its own socket there.
    if made.is_some() && std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok() == made {
        let _ = std::fs::remove_file(path);
    }
    served.map_err(|source| AdminError::Stopped { name: path.display().to_string(), source })
}

fn bind(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(AdminError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(AdminError::InUse { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// The user at the other end; `None` where the kernel did not say.
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl Peer {
    fn may_ask(self, own_uid: u32) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == own_uid)
    }
}

async fn check_peer(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    if peer.may_ask(rustix::process::geteuid().as_raw()) {
        return next.run(request).await;
    }
    failure(StatusCode::FORBIDDEN, "only root and the agent's own user may ask; try sudo".to_owned())
}

#[derive(Clone)]
struct Api {
    agent: Arc<dyn Control>,
    stopping: watch::Receiver<bool>,
    followers: Arc<Semaphore>,
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/overhead", get(overhead))
        .route("/v1/explain", get(explain))
        .route("/v1/flows", get(flows::flows))
        .route("/v1/flows/recent", get(flows::recent))
        .route("/v1/flows/follow", get(flows::follow))
        .route("/v1/map", get(map))
        .route("/v1/breaker", post(order))
        .route("/v1/rollouts", get(rollouts))
        .route("/v1/rollout", post(steer))
        .route("/v1/held", get(held))
        .route("/v1/accept", post(accept))
        .fallback(unknown_path)
        .layer(middleware::from_fn(check_peer))
        .with_state(api)
}

async fn status(State(api): State<Api>) -> Response {
    answer(move || api.agent.status()).await
}

async fn overhead(State(api): State<Api>) -> Response {
    answer(move || Ok(api.agent.overhead())).await
}

async fn services(State(api): State<Api>) -> Response {
    answer(move || api.agent.services().map(|services| Services { services })).await
}

/// What `/v1/explain` is asked.
#[derive(serde::Deserialize)]
struct ExplainQuery {
    target: String,
    #[serde(rename = "as")]
    asker: Option<String>,
}

async fn explain(State(api): State<Api>, query: Result<Query<ExplainQuery>, QueryRejection>) -> Response {
    let Ok(Query(ExplainQuery { target, asker })) = query else {
        let text =
            "say what to explain: /v1/explain?target=SERVICE, or ADDRESS:PORT, and to whom: &as=CGROUP";
        return failure(StatusCode::BAD_REQUEST, text.to_owned());
    };
    let explain = move || api.agent.explain(&target, asker.as_deref());
    match tokio::task::spawn_blocking(explain).await {
        Ok(Ok(explanation)) => Json(explanation).into_response(),
        Ok(Err(error @ ExplainError::NoCgroup { .. })) => failure(StatusCode::NOT_FOUND, error.to_string()),
        Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("reading stopped: {error}")),
    }
}

async fn map(State(api): State<Api>) -> Response {
    answer(move || api.agent.map()).await
}

/// An operator's order. Its body is read by hand, so that a wrong one is answered like any other failure.
async fn order(State(api): State<Api>, body: Bytes) -> Response {
    let request: OrderRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let text = format!("the order is not understood: {error}; send service, order and backend");
            return failure(StatusCode::BAD_REQUEST, text);
        }
    };
    match tokio::task::spawn_blocking(move || api.agent.order(&request)).await {
        Ok(Ok(ordered)) => Json(ordered).into_response(),
        Ok(Err(error @ OrderError::Duration { .. })) => failure(StatusCode::BAD_REQUEST, error.to_string()),
        Ok(Err(error)) => failure(StatusCode::NOT_FOUND, error.to_string()),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("ordering stopped: {error}")),
    }
}

async fn rollouts(State(api): State<Api>) -> Response {
    Json(Rollouts { rollouts: api.agent.rollouts() }).into_response()
}

/// An operator's order about a canary.
async fn steer(State(api): State<Api>, body: Bytes) -> Response {
    let request: RolloutRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let text = format!("the order is not understood: {error}; send service and order");
            return failure(StatusCode::BAD_REQUEST, text);
        }
    };
    match api.agent.steer(&request) {
        Ok(rollout) => Json(rollout).into_response(),
        Err(error @ RolloutError::Unknown { .. }) => failure(StatusCode::NOT_FOUND, error.to_string()),
        Err(error @ RolloutError::WrongPhase { .. }) => failure(StatusCode::CONFLICT, error.to_string()),
    }
}

async fn held(State(api): State<Api>) -> Response {
    Json(HeldViews { held: api.agent.held() }).into_response()
}

/// An operator's word that a mass deletion is meant.
async fn accept(State(api): State<Api>, body: Bytes) -> Response {
    let request: AcceptRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let text =
                format!("this is not understood: {error}; send services, a list of names or an empty one");
            return failure(StatusCode::BAD_REQUEST, text);
        }
    };
    match api.agent.accept(&request) {
        Ok(accepted) => Json(accepted).into_response(),
        Err(error) => failure(StatusCode::NOT_FOUND, error.to_string()),
    }
}

async fn unknown_path() -> Response {
    let text = "no such path; there are /v1/status, /v1/overhead, /v1/services, /v1/explain, /v1/flows, /v1/flows/recent, /v1/flows/follow, /v1/map, /v1/rollouts, /v1/held, /v1/breaker (POST), /v1/rollout (POST) and /v1/accept (POST)";
    failure(StatusCode::NOT_FOUND, text.to_owned())
}

/// Reads maps away from the async runtime.
async fn answer<T: Serialize + Send + 'static>(
    read: impl FnOnce() -> Result<T, ObserveError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, format!("reading stopped: {error}")),
    }
}

fn failure(status: StatusCode, error: String) -> Response {
    (status, Json(Failure { error })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::admin::view::{
        Accepted, Explanation, Flows, FollowLine, Order, Ordered, RolloutView, ServiceMap, Status,
    };
    use crate::cli::client::{Client, ClientError};

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("run/segue.sock");
        (directory, path)
    }

    /// An admin API that runs until its handle is told to stop.
    pub(super) struct Server {
        pub(super) path: PathBuf,
        pub(super) specimen: Arc<Specimen>,
        stop: tokio::sync::oneshot::Sender<()>,
        task: tokio::task::JoinHandle<Result<(), AdminError>>,
        _directory: tempfile::TempDir,
    }

    impl Server {
        pub(super) async fn start(specimen: Specimen) -> Self {
            let (directory, path) = socket();
            let specimen = Arc::new(specimen);
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let (agent, at) = (Arc::clone(&specimen), path.clone());
            let task = tokio::spawn(async move {
                let stopped = async move { drop(stopped.await) };
                serve_admin(&at, agent, stopped).await
            });
            // The socket is bound on the task's first poll; until then there is no such file.
            while std::os::unix::net::UnixStream::connect(&path).is_err() {
                assert!(!task.is_finished(), "the server stopped");
                tokio::task::yield_now().await;
            }
            Self { path, specimen, stop, task, _directory: directory }
        }

        pub(super) async fn stop(self) {
            self.stop.send(()).expect("the server runs");
            self.task.await.expect("no panic").expect("a clean end");
            assert!(!self.path.exists(), "the socket file is removed");
        }
    }

    #[tokio::test]
    async fn every_path_answers_what_the_agent_shows() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let status: Status = client.get("/v1/status").await.expect("an answer");
        assert_eq!(status, server.specimen.status().expect("a specimen"));
        let services: Services = client.get("/v1/services").await.expect("an answer");
        assert_eq!(services.services, server.specimen.services().expect("a specimen"));
        let flows: Flows = client.get("/v1/flows").await.expect("an answer");
        assert_eq!(flows.edges.len(), server.specimen.edges().expect("a specimen").len());
        let map: ServiceMap = client.get("/v1/map").await.expect("an answer");
        assert_eq!(map, server.specimen.map().expect("a specimen"));
        let explanation: Explanation =
            client.get("/v1/explain?target=shop%2Fpayment").await.expect("an answer");
        assert_eq!(explanation, server.specimen.explain("shop/payment", None).expect("a specimen"));
        let error = client.get::<Explanation>("/v1/explain").await.expect_err("nothing to explain");
        assert!(error.to_string().contains("target=SERVICE"), "{error}");
        let error = client.get::<Flows>("/v1/nothing").await.expect_err("no such path");
        assert!(
            matches!(&error, ClientError::Refused { error, .. } if error.contains("/v1/flows")),
            "{error}"
        );
        server.stop().await;
    }

    #[tokio::test]
    async fn an_order_is_carried_out_once_and_answered() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let request = OrderRequest {
            service: "shop/payment".to_owned(),
            backend: Some("10.1.0.5:8443".parse().expect("an address")),
            order: Order::Open,
            for_ms: Some(60_000),
        };
        let ordered: Ordered = client.post("/v1/breaker", &request).await.expect("an answer");
        assert_eq!((ordered.order, ordered.ends_in_ms), (Order::Open, Some(60_000)));
        assert_eq!(*server.specimen.orders.lock().expect("no panic"), [request]);
        server.stop().await;
    }

    #[tokio::test]
    async fn an_order_that_makes_no_sense_is_refused_with_the_reason() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let wrong = [
            (serde_json::json!({"service": "shop/payment", "order": "explode"}), 400, "not understood"),
            (serde_json::json!({"service": "shop/payment", "order": "open", "for_ms": 0}), 400, "24 h"),
            (serde_json::json!({"service": "nobody", "order": "open"}), 404, "no service `nobody`"),
        ];
        for (body, expected, part) in wrong {
            let error = client.post::<_, Ordered>("/v1/breaker", &body).await.expect_err("a wrong order");
            let ClientError::Refused { status, error } = error else { panic!("{error}") };
            assert_eq!(status, expected, "{error}");
            assert!(error.contains(part), "{error}");
        }
        assert!(server.specimen.orders.lock().expect("no panic").is_empty());
        server.stop().await;
    }

    #[tokio::test]
    async fn canaries_are_shown_and_steered_and_a_wrong_order_is_refused_with_the_reason() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let shown = client.get::<Rollouts>("/v1/rollouts").await.expect("canaries").rollouts;
        assert_eq!(shown, server.specimen.rollouts());
        let order = |service: &str, order: &str| serde_json::json!({"service": service, "order": order});
        let paused = client.post::<_, RolloutView>("/v1/rollout", &order("shop/payment", "pause")).await;
        assert_eq!(paused.expect("an order").phase, crate::rollout::Phase::Paused);
        for (body, expected, part) in [
            (order("shop/payment", "explode"), 400, "not understood"),
            (order("nobody", "pause"), 404, "no canary of a service `nobody`"),
            (order("shop/payment", "resume"), 409, "cannot be resumed"),
        ] {
            let error = client.post::<_, RolloutView>("/v1/rollout", &body).await.expect_err("a wrong order");
            let ClientError::Refused { status, error } = error else { panic!("{error}") };
            assert_eq!(status, expected, "{error}");
            assert!(error.contains(part), "{error}");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn what_is_held_is_shown_and_accepted_by_name_or_all_together() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let held = client.get::<HeldViews>("/v1/held").await.expect("what is held").held;
        assert_eq!(held, server.specimen.held());
        for services in [Vec::new(), vec!["shop/cart".to_owned()]] {
            let accepted = client.post::<_, Accepted>("/v1/accept", &AcceptRequest { services }).await;
            assert_eq!(accepted.expect("an order").accepted, held);
        }
        for (body, expected) in [
            (serde_json::json!({"services": ["nobody"]}), 404),
            (serde_json::json!({"services": "all"}), 400),
        ] {
            let error = client.post::<_, Accepted>("/v1/accept", &body).await.expect_err("a wrong order");
            let ClientError::Refused { status, .. } = error else { panic!("{error}") };
            assert_eq!(status, expected);
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn a_map_that_cannot_be_read_is_an_answer_with_the_reason() {
        let server = Server::start(Specimen { broken: true, ..Specimen::default() }).await;
        let error =
            Client::new(server.path.clone()).get::<Flows>("/v1/flows").await.expect_err("a broken map");
        assert!(error.to_string().contains("cannot read edges from the kernel"), "{error}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_follower_gets_records_hears_of_losses_and_ends_with_the_agent() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let mut lines = client.lines("/v1/flows/follow").await.expect("a stream");
        // More than all queues between hold, sent at once.
        let record = server.specimen.record();
        for _ in 0..10_000 {
            server.specimen.publish(&record);
        }
        let (mut received, mut lost) = (0, 0);
        while received + lost < 10_000 {
            let line = lines.next().await.expect("the stream is open").expect("the stream goes on");
            match serde_json::from_str(&line).expect("a line of JSON") {
                FollowLine::Record(got) => {
                    assert_eq!(got, record);
                    received += 1;
                }
                FollowLine::Lost { lost: count } => lost += count,
                FollowLine::Memory { .. } => panic!("nobody asked"),
            }
        }
        assert!(received > 0 && lost > 0, "{received} received, {lost} lost");
        server.stop().await;
        assert!(lines.next().await.expect("a clean end").is_none());
    }

    #[tokio::test]
    async fn a_reader_too_many_is_told_so() {
        let server = Server::start(Specimen::default()).await;
        let client = Client::new(server.path.clone());
        let mut readers = Vec::new();
        for _ in 0..MAX_FOLLOWERS {
            readers.push(client.lines("/v1/flows/follow").await.expect("a stream"));
        }
        let error = client.lines("/v1/flows/follow").await.expect_err("one too many");
        assert!(error.to_string().contains("16 readers follow already"), "{error}");
        server.stop().await;
    }

    #[tokio::test]
    async fn only_the_agents_user_can_open_the_socket_file() {
        let server = Server::start(Specimen::default()).await;
        let mode = std::fs::metadata(&server.path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        server.stop().await;
    }

    #[test]
    fn root_and_the_agents_own_user_may_ask_and_nobody_else() {
        let peer = |uid| Peer { uid };
        assert!(peer(Some(0)).may_ask(998));
        assert!(peer(Some(998)).may_ask(998));
        assert!(!peer(Some(1000)).may_ask(998));
        assert!(!peer(None).may_ask(998));
    }

    #[tokio::test]
    async fn a_socket_somebody_answers_on_is_left_alone() {
        let server = Server::start(Specimen::default()).await;
        let second = serve_admin(&server.path, Arc::new(Specimen::default()), std::future::pending()).await;
        assert!(matches!(second, Err(AdminError::InUse { .. })), "{second:?}");
        let status = Client::new(server.path.clone()).get::<Status>("/v1/status").await;
        assert!(status.is_ok(), "{status:?}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_socket_nobody_answers_on_is_replaced_and_other_files_are_kept() {
        let (_directory, path) = socket();
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        assert!(bind(&path).is_ok());

        std::fs::remove_file(&path).expect("the socket");
        std::fs::write(&path, "precious").expect("a file");
        assert!(matches!(bind(&path), Err(AdminError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "precious");
    }
}
