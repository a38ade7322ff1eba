//! The read-only TCP listener: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever runs the agent, and the
//! service map for people.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::page::{self, Origins};
use super::{AdminError, Observe};
use crate::metrics::{Exposition, Format};

/// Scrapes that read the maps at a time; more wait. 10 000 edges are some 100 MB of text.
const MAX_SCRAPES: usize = 1;

/// Takes the address that metrics are served on. Nothing is answered yet.
///
/// # Errors
/// The address cannot be listened on.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Listen { address, source })
}

/// Serves `/metrics`, `/healthz`, `/readyz` and the service map until `shutdown` completes.
///
/// # Errors
/// The listener fails.
pub async fn serve_metrics(
    listener: TcpListener,
    observe: Arc<dyn Observe>,
    map_origins: Origins,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let name = listener.local_addr().map_or_else(|_| "the metrics".to_owned(), |address| address.to_string());
    serve_on(listener, observe, map_origins, shutdown)
        .await
        .map_err(|source| AdminError::Stopped { name, source })
}

async fn serve_on(
    listener: TcpListener,
    observe: Arc<dyn Observe>,
    map_origins: Origins,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let map = page::router(Arc::clone(&observe), map_origins, listener.local_addr().ok());
    let exposition = Arc::new(Exposition::new(Arc::clone(&observe)));
    let probes = Probes { observe, exposition, scrapes: Arc::new(Semaphore::new(MAX_SCRAPES)) };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(probes)
        .merge(map);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

#[derive(Clone)]
struct Probes {
    observe: Arc<dyn Observe>,
    exposition: Arc<Exposition>,
    scrapes: Arc<Semaphore>,
}

async fn metrics(State(probes): State<Probes>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted_by(accept);
    let Ok(permit) = probes.scrapes.acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let rendered = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        probes.exposition.render(format)
    });
    match rendered.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written; see the agent's log\n")
                .into_response()
        }
    }
}

async fn ready(State(probes): State<Probes>) -> Response {
    let readiness = probes.observe.readiness();
    if readiness.ready {
        return "ready\n".into_response();
    }
    let text = format!("waiting for {}\n", readiness.waiting_for.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::admin::specimen::Specimen;

    /// Status, content type and body of one GET against a listener that serves the specimen.
    async fn get(specimen: Specimen, path: &str, accept: &str) -> (u16, String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve_on(listener, Arc::new(specimen), Origins::default(), async move {
            drop(stopped.await);
        }));

        let stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream))
                .await
                .expect("HTTP");
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get(path)
            .header("host", "agent")
            .header("accept", accept)
            .body(Empty::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status().as_u16();
        let kind = response.headers()["content-type"].to_str().expect("ASCII").to_owned();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        drop(sender);
        stop.send(()).expect("the server runs");
        server.await.expect("no panic").expect("a clean end");
        connection.await.expect("no panic").expect("a clean end");
        (status, kind, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn a_scraper_gets_the_format_it_asks_for() {
        let (status, kind, body) = get(Specimen::default(), "/metrics", "*/*").await;
        assert_eq!((status, &*kind), (200, "text/plain; version=0.0.4; charset=utf-8"));
        assert!(!body.contains("# EOF"));
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        let (status, kind, body) = get(Specimen::default(), "/metrics", accept).await;
        assert_eq!((status, &*kind), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
        assert!(body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn an_agent_that_waits_is_healthy_and_not_ready() {
        let waiting = || Specimen { waiting_for: vec!["kubernetes".to_owned()], ..Specimen::default() };
        assert_eq!(get(waiting(), "/healthz", "*/*").await.0, 200);
        let (status, _, body) = get(waiting(), "/readyz", "*/*").await;
        assert_eq!((status, &*body), (503, "waiting for kubernetes\n"));
        assert_eq!(get(Specimen::default(), "/readyz", "*/*").await.0, 200);
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("an address");
        let text = listen(address).await.expect_err("the port is taken").to_string();
        assert!(text.contains(&address.to_string()) && text.contains("another process"), "{text}");
    }
}
