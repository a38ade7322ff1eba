//! Who talks to whom: totals, events that are remembered, and events as they happen. What is wanted of them is decided
//! here, so that a reader who wants little costs little.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{Api, FOLLOW_QUEUE, MAX_FOLLOWERS, answer, failure};
use crate::admin::view::{Flows, FollowLine, Recent};
use crate::admin::{Followed, Observe};
use crate::flows::{Record, Selector, Window};

/// What is asked, read from the query.
type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// What is wrong with a question, and how it is answered.
type Refused = (StatusCode, String);

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn bad(why: impl ToString) -> Refused {
    (StatusCode::BAD_REQUEST, why.to_string())
}

/// What is wanted.
#[derive(Default)]
struct Wanted {
    selector: Selector,
    /// Of which time; makes no sense of totals.
    window: Option<Window>,
    /// Single requests as well.
    requests: bool,
}

fn read(asked: Asked) -> Result<Wanted, Refused> {
    let Query(pairs) = asked.map_err(bad)?;
    let Wanted { mut selector, mut window, mut requests } = Wanted::default();
    for (key, value) in &pairs {
        let time = || {
            let read = value.parse::<Timestamp>();
            read.map_err(|error| bad(format!("`{value}` is no time: {error}; as in 2026-03-01T12:00:00Z")))
        };
        match key.as_str() {
            "last" => {
                let last = value.parse().map_err(|_| bad(format!("`{value}` is no number of events")))?;
                window.get_or_insert_with(Window::default).last = Some(last);
            }
            "since" => window.get_or_insert_with(Window::default).since = Some(time()?),
            "until" => window.get_or_insert_with(Window::default).until = Some(time()?),
            "requests" => {
                requests =
                    value.parse().map_err(|_| bad(format!("requests is true or false, not `{value}`")))?;
            }
            key => selector.add(key, value).map_err(bad)?,
        }
    }
    requests |= selector.wants_requests();
    Ok(Wanted { selector, window, requests })
}

/// Refuses names nobody has. Looks into maps, so not on the async runtime.
fn check_names(agent: &dyn Observe, selector: &Selector) -> Result<(), Refused> {
    if *selector == Selector::default() {
        return Ok(());
    }
    let checked = selector.check_names(&agent.known_names());
    checked.map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))
}

/// Runs what reads maps away from the async runtime.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let stopped = |error| (StatusCode::INTERNAL_SERVER_ERROR, format!("reading stopped: {error}"));
    tokio::task::spawn_blocking(read).await.map_err(stopped)?
}

/// Totals by edge.
pub(super) async fn flows(State(api): State<Api>, asked: Asked) -> Response {
    let checked = read(asked).and_then(|Wanted { selector, window, .. }| match window {
        Some(_) => Err(bad("totals have no time; ask /v1/flows/recent for last, since and until")),
        None => selector.fits_totals().map(|()| selector).map_err(bad),
    });
    let agent = Arc::clone(&api.agent);
    let selector = match checked {
        Ok(selector) => blocking(move || check_names(&*agent, &selector).map(|()| selector)).await,
        Err(refused) => Err(refused),
    };
    match selector {
        Ok(selector) => answer(move || totals(&*api.agent, &selector)).await,
        Err((status, error)) => failure(status, error),
    }
}

fn totals(agent: &dyn Observe, selector: &Selector) -> Result<Flows, crate::admin::ObserveError> {
    let (edges, counted_at) = agent.counted_edges()?;
    let counted_at_ms = counted_at.and_then(|at| u64::try_from(at.as_millis()).ok());
    if *selector == Selector::default() {
        return Ok(Flows { edges, counted_at_ms });
    }
    let services = agent.services()?;
    let carried_by =
        |name: &str| services.iter().find(|service| *service.name == *name).map(|service| service.protocol);
    let wanted = edges.into_iter().filter_map(|edge| {
        let carried_by = carried_by(&edge.service);
        selector.of_edge(edge, carried_by)
    });
    Ok(Flows { edges: wanted.collect(), counted_at_ms })
}

/// What is remembered of single events.
pub(super) async fn recent(State(api): State<Api>, asked: Asked) -> Response {
    let found = match read(asked) {
        Ok(Wanted { selector, window, .. }) => {
            blocking(move || {
                selector.fits_remembered().map_err(bad)?;
                check_names(&*api.agent, &selector)?;
                Ok(api.agent.remembered(&selector, window.unwrap_or_default()))
            })
            .await
        }
        Err(refused) => Err(refused),
    };
    match found {
        Ok((records, memory)) => Json(Recent { memory, records }).into_response(),
        Err((status, error)) => failure(status, error),
    }
}

/// Single events as they happen, after those remembered that were asked for.
pub(super) async fn follow(State(api): State<Api>, asked: Asked) -> Response {
    let Ok(permit) = Arc::clone(&api.followers).try_acquire_owned() else {
        let text = format!("{MAX_FOLLOWERS} readers follow already; end one of them");
        return failure(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let agent = Arc::clone(&api.agent);
    let begun = match read(asked) {
        Ok(Wanted { selector, window, requests }) => {
            blocking(move || {
                check_names(&*agent, &selector)?;
                // Who names no time wants what is to come.
                let asks_back = window.is_some();
                let window = window.unwrap_or(Window { last: Some(0), ..Window::default() });
                let followed = agent.follow(&selector, window, requests);
                Ok((selector, followed, asks_back))
            })
            .await
        }
        Err(refused) => Err(refused),
    };
    let (selector, followed, asks_back) = match begun {
        Ok(begun) => begun,
        Err((status, error)) => return failure(status, error),
    };
    let (lines, queue) = mpsc::channel(FOLLOW_QUEUE);
    tokio::spawn(forward(selector, followed, asks_back, lines, api.stopping, permit));
    let body = Body::from_stream(ReceiverStream::new(queue));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Writes one line per record until the reader goes, the agent stops, or there is no more to come.
async fn forward(
    selector: Selector,
    followed: Followed,
    asks_back: bool,
    lines: mpsc::Sender<Result<Bytes, Infallible>>,
    mut stopping: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let Followed { memory, remembered, mut to_come, mut requests } = followed;
    let beginning = asks_back.then_some(FollowLine::Memory { memory });
    let mut before = beginning.into_iter().chain(remembered.into_iter().map(FollowLine::Record));
    loop {
        let line = match before.next() {
            Some(line) => line,
            None => {
                let received = tokio::select! {
                    received = to_come.recv() => received,
                    received = next(&mut requests) => received,
                    () = lines.closed() => return,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                };
                match received {
                    Ok(record) if !selector.matches(&record) => continue,
                    Ok(record) => FollowLine::Record(record),
                    Err(RecvError::Lagged(lost)) => FollowLine::Lost { lost },
                    Err(RecvError::Closed) => return,
                }
            }
        };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        let sent = tokio::select! {
            sent = lines.send(Ok(text.into())) => sent,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The next request; never, where they were not asked for.
async fn next(requests: &mut Option<broadcast::Receiver<Arc<Record>>>) -> Result<Arc<Record>, RecvError> {
    match requests {
        Some(requests) => requests.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
