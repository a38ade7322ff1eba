//! The service map in a browser, on the address of the metrics: the page, what it is made of, and the map it draws. All of
//! it is read only and comes from the agent itself. Knows the agent only through [`Observe`], and nothing of drawing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::Observe;

/// How old a map may be that is handed out: however many pages are open, the kernel is read once in this time.
const FRESH: Duration = Duration::from_millis(900);

/// Agents that one page may ask, as the page itself limits them.
const MOST_AGENTS: usize = 32;

/// The longest address of an agent, in bytes: a host name has 253.
const MOST_ADDRESS: usize = 280;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const HTML: &str = include_str!("page/index.html");

/// Everything the page loads, by the last part of its path.
const ASSETS: [(&str, &str, &str); 13] = [
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("graph.css", "text/css", include_str!("page/graph.css")),
    ("page.css", "text/css", include_str!("page/page.css")),
    ("main.js", "text/javascript", include_str!("page/main.js")),
    ("feed.js", "text/javascript", include_str!("page/feed.js")),
    ("model.js", "text/javascript", include_str!("page/model.js")),
    ("picture.js", "text/javascript", include_str!("page/picture.js")),
    ("layout.js", "text/javascript", include_str!("page/layout.js")),
    ("draw.js", "text/javascript", include_str!("page/draw.js")),
    ("panel.js", "text/javascript", include_str!("page/panel.js")),
    ("timeline.js", "text/javascript", include_str!("page/timeline.js")),
    ("format.js", "text/javascript", include_str!("page/format.js")),
    ("export.js", "text/javascript", include_str!("page/export.js")),
];

/// Pages that may read the map although another agent served them: origins as in `http://node-a:9464`, or `*`.
pub type Origins = Arc<[String]>;

/// What the page's paths need.
#[derive(Clone)]
struct Page {
    observe: Arc<dyn Observe>,
    origins: Origins,
    /// Where the agent listens: on a loopback address it is asked under no other name.
    address: Option<SocketAddr>,
    drawn: Arc<Mutex<Option<Drawn>>>,
}

/// A map, as JSON, and when it was made.
struct Drawn {
    at: Instant,
    text: Bytes,
}

/// The paths of the page. `address` is where they are served.
pub(super) fn router(observe: Arc<dyn Observe>, origins: Origins, address: Option<SocketAddr>) -> Router {
    let page = Page { observe, origins, address, drawn: Arc::default() };
    Router::new()
        .route("/", get(document))
        .route("/map", get(document))
        .route("/map/{asset}", get(asset))
        .route("/map.json", get(map))
        .with_state(page)
}

/// What the page's address may say.
#[derive(serde::Deserialize)]
struct Asked {
    agents: Option<String>,
}

async fn document(State(page): State<Page>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    if let Some(refusal) = page.refusal(&headers) {
        return refusal;
    }
    let agents = agents(asked.agents.as_deref().unwrap_or_default()).join(" ");
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {agents}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = served("text/html", HTML);
    // Only characters of addresses are left in it.
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn asset(Path(name): Path<String>) -> Response {
    let found = ASSETS.iter().find(|(known, ..)| *known == name);
    found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |(_, kind, text)| served(kind, text))
}

async fn map(State(page): State<Page>, headers: HeaderMap) -> Response {
    if let Some(refusal) = page.refusal(&headers) {
        return refusal;
    }
    let allowed = headers.get(ORIGIN).filter(|origin| page.may_read(origin)).cloned();
    let mut response = match page.drawn().await {
        Some(text) => {
            let kind = HeaderValue::from_static("application/json");
            let mut response = guarded(text.into_response());
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        None => guarded(
            (StatusCode::INTERNAL_SERVER_ERROR, "the map could not be drawn up; see the agent's log\n")
                .into_response(),
        ),
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

impl Page {
    /// The map as JSON, not older than [`FRESH`]. `None` where it cannot be read.
    async fn drawn(&self) -> Option<Bytes> {
        // Held while it is made: who comes meanwhile gets the same.
        let mut drawn = self.drawn.lock().await;
        if let Some(known) = drawn.as_ref().filter(|known| known.at.elapsed() < FRESH) {
            return Some(known.text.clone());
        }
        let observe = Arc::clone(&self.observe);
        let made = tokio::task::spawn_blocking(move || {
            let map = observe.map().inspect_err(|error| tracing::warn!("{error}")).ok()?;
            serde_json::to_vec(&map).ok()
        });
        let text = Bytes::from(made.await.ok().flatten()?);
        *drawn = Some(Drawn { at: Instant::now(), text: text.clone() });
        Some(text)
    }

    fn may_read(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|known| known == "*" || known.as_bytes() == origin.as_bytes())
    }

    /// Why a request is not answered: it came to a loopback address under a name that is not the host's own. So a name of
    /// somebody else's that leads to 127.0.0.1 makes no page of theirs a reader of the map.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let is_loopback = self.address.is_some_and(|address| address.ip().is_loopback());
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !is_loopback
            || host.is_empty()
            || is_own_name(host)
            || self.origins.iter().any(|known| names(known, host))
        {
            return None;
        }
        let text = "the map is for this host: open it as localhost, or name the address with segue run --map-origin\n";
        Some(guarded((StatusCode::MISDIRECTED_REQUEST, text).into_response()))
    }
}

/// Whether a `Host` header means this host whoever looks the name up: `localhost` or an address.
fn is_own_name(host: &str) -> bool {
    let is_address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !is_address(host) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || is_address(name)
}

/// Whether an origin, as in `http://a:9464`, has this host.
fn names(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, known)| known.eq_ignore_ascii_case(host))
}

/// The addresses in a comma-separated list that can be an agent's.
fn agents(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|agent| is_origin(agent)).take(MOST_AGENTS).collect()
}

/// Whether this is the origin of a page, as in `https://node-a:9464`: nothing that could mean more in a header.
pub fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    host.is_some_and(|host| !host.is_empty() && host.len() <= MOST_ADDRESS && host.bytes().all(is_plain))
}

fn served(kind: &'static str, text: &'static str) -> Response {
    let mut response = guarded(text.into_response());
    let kind = format!("{kind}; charset=utf-8");
    if let Ok(kind) = HeaderValue::try_from(kind) {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

/// With the headers every answer has.
fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use hyper::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::admin::specimen::Specimen;
    use crate::admin::view::ServiceMap;

    /// The answer to one GET with these headers.
    async fn get_with(origins: &[&str], path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
        let origins: Origins = origins.iter().map(ToString::to_string).collect();
        let address = "127.0.0.1:9464".parse().ok();
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::new(Empty::new())).expect("a request");
        let answer = router(Arc::new(Specimen::default()), origins, address).oneshot(request).await;
        let response = answer.expect("no error but in answers");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn the_page_loads_nothing_that_the_agent_does_not_serve() {
        let (status, headers, html) = get_with(&[], "/", &[("host", "127.0.0.1:9464")]).await;
        assert_eq!(
            (status, &headers[CONTENT_TYPE]),
            (200, &HeaderValue::from_static("text/html; charset=utf-8"))
        );
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(policy.contains("connect-src 'self' ;") && !policy.contains("unsafe"), "{policy}");
        assert!(
            !html.contains("http://") && !html.contains("https://") && !html.contains(" style="),
            "{html}"
        );
        let mut loaded: Vec<String> = Vec::new();
        for part in html.split(['"', '\'']).filter(|part| part.starts_with("/map/")) {
            loaded.push(part.to_owned());
        }
        for (name, _, text) in &ASSETS {
            for part in text.split('\'').filter(|part| part.starts_with("./") && part.ends_with(".js")) {
                loaded.push(format!("/map/{}", &part[2..]));
            }
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{name}");
        }
        for path in loaded {
            assert_eq!(get_with(&[], &path, &[]).await.0, 200, "{path}");
        }
        assert_eq!(get_with(&[], "/map/nothing.js", &[]).await.0, 404);
    }

    #[tokio::test]
    async fn the_policy_lets_the_page_ask_the_agents_it_names_and_nobody_else() {
        let path = "/?agents=http://a:9464,http%3A%2F%2F%5Bfd00::1%5D:9464,https://x;script-src%20*,ftp://b,http://c/d";
        let (_, headers, _) = get_with(&[], path, &[]).await;
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.contains("connect-src 'self' http://a:9464 http://[fd00::1]:9464;"), "{policy}");
    }

    #[tokio::test]
    async fn the_map_is_what_the_agent_shows_and_only_named_pages_of_others_may_read_it() {
        let (status, headers, text) = get_with(&[], "/map.json", &[("origin", "http://b:9464")]).await;
        let map: ServiceMap = serde_json::from_str(&text).expect("a map");
        assert_eq!((status, map), (200, Specimen::default().map().expect("a specimen")));
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{headers:?}");
        let allowed = async |origins: &[&str], origin: &str| {
            let (_, headers, _) = get_with(origins, "/map.json", &[("origin", origin)]).await;
            headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().expect("ASCII").to_owned())
        };
        assert_eq!(allowed(&["http://a:9464"], "http://b:9464").await, None);
        assert_eq!(allowed(&["http://a:9464"], "http://a:9464").await.as_deref(), Some("http://a:9464"));
        assert_eq!(allowed(&["*"], "http://b:9464").await.as_deref(), Some("http://b:9464"));
        let (_, headers, _) = get_with(&["*"], "/", &[("origin", "http://b:9464")]).await;
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "the page itself is nobody's");
    }

    #[tokio::test]
    async fn a_name_of_somebody_elses_does_not_open_the_map_of_a_loopback_address() {
        for (host, expected) in [
            ("localhost:9464", 200),
            ("127.0.0.1:9464", 200),
            ("[::1]:9464", 200),
            ("localhost", 200),
            ("evil.example:9464", 421),
            ("localhost.evil.example", 421),
        ] {
            for path in ["/", "/map.json"] {
                assert_eq!(get_with(&[], path, &[("host", host)]).await.0, expected, "{host} {path}");
            }
        }
        let origins = ["https://segue.example"];
        assert_eq!(get_with(&origins, "/map.json", &[("host", "segue.example")]).await.0, 200);
    }

    #[tokio::test]
    async fn many_pages_cost_one_reading() {
        let observe = Arc::new(Specimen::default());
        let page = Page { observe, origins: Arc::default(), address: None, drawn: Arc::default() };
        let first = page.drawn().await.expect("a map");
        let second = page.drawn().await.expect("a map");
        assert_eq!(first.as_ptr(), second.as_ptr());
    }

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_else() {
        for text in ["http://a", "https://node-a.example:9464", "http://[fd00::1]:9464"] {
            assert!(is_origin(text), "{text}");
        }
        for text in [
            "a:9464",
            "http://",
            "http://a/b",
            "http://a b",
            "http://a;x",
            "http://a'",
            "javascript:x",
            "http://a\n",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
