//! What is answered to a request: lists, watches, one object, a patch of a status.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::store::{Happened, Key, Store, parsed};
use super::{Asked, Behaviour, Shared, lock, write_json};

/// How long a watch lasts that says nothing of it.
const WATCH: Duration = Duration::from_secs(300);
/// How often a watch looks whether it should end.
const TICK: Duration = Duration::from_millis(100);

/// Answers a request. `false` where the connection is used up.
pub(super) fn answer(
    stream: &TcpStream,
    shared: &Shared,
    asked: &Asked,
    behaviour: &Behaviour,
) -> io::Result<bool> {
    if behaviour.token.is_some() && asked.token != behaviour.token {
        return refuse(stream, 401, "Unauthorized", "who are you?");
    }
    if let Some((_, code)) = behaviour.refuses.iter().find(|(part, _)| asked.path.contains(part.as_str())) {
        let reason = match code {
            403 => "Forbidden",
            404 => "NotFound",
            410 => "Expired",
            429 => "TooManyRequests",
            _ => "InternalError",
        };
        return refuse(stream, *code, reason, "as the test wants it");
    }
    let Some((collection, namespace, name, subresource)) = place(&lock(&shared.store), &asked.path) else {
        return refuse(stream, 404, "NotFound", "the server could not find the requested resource");
    };
    match (asked.method.as_str(), name, subresource.as_deref()) {
        ("GET", None, None) if asked.parameter("watch").is_some_and(|it| it == "true" || it == "1") => {
            watch(stream, shared, asked, &collection, namespace.as_deref(), behaviour)?;
            Ok(false)
        }
        ("GET", None, None) => list(stream, shared, asked, &collection, namespace.as_deref(), behaviour),
        ("GET", Some(name), None) => {
            let key = (namespace.unwrap_or_default(), name);
            let found = lock(&shared.store).collections[&collection].objects.get(&key).cloned();
            match found {
                Some((_, json)) => write_json(stream, 200, &shown(&json, asked)).map(|()| true),
                None => refuse(stream, 404, "NotFound", "no such object"),
            }
        }
        ("PATCH", Some(name), Some("status")) => {
            patch_status(stream, shared, asked, &collection, &(namespace.unwrap_or_default(), name))
        }
        _ => refuse(stream, 405, "MethodNotAllowed", "not here"),
    }
}

/// The collection, namespace, name and subresource that a path means.
type Place = (String, Option<String>, Option<String>, Option<String>);

fn place(store: &Store, path: &str) -> Option<Place> {
    store.collections.keys().find_map(|collection| {
        let (base, plural) = collection.rsplit_once('/')?;
        let rest = path.strip_prefix(base)?.strip_prefix('/')?;
        let (namespace, rest) = match rest.strip_prefix("namespaces/").and_then(|rest| rest.split_once('/')) {
            Some((namespace, rest)) => (Some(namespace.to_owned()), rest),
            None => (None, rest),
        };
        let mut parts = rest.split('/');
        let is_it = parts.next() == Some(plural);
        let mut owned = || parts.next().map(str::to_owned);
        is_it.then(|| (collection.clone(), namespace, owned(), owned()))
    })
}

fn refuse(stream: &TcpStream, code: u16, reason: &str, message: &str) -> io::Result<bool> {
    write_json(stream, code, &status(code, reason, message).to_string()).map(|()| true)
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// Whether an object is meant: of the namespace, and of the name or on the node that a field selector says.
fn is_meant(key: &Key, json: &str, namespace: Option<&str>, selector: Option<&str>) -> bool {
    let selected = |field: &str| selector.and_then(|it| it.strip_prefix(field)?.strip_prefix('='));
    namespace.is_none_or(|namespace| namespace == key.0)
        && selected("metadata.name").is_none_or(|name| name == key.1)
        && selected("spec.nodeName").is_none_or(|node| parsed(json)["spec"]["nodeName"] == node)
}

/// An object, or what is wanted of it.
fn shown<'a>(json: &'a str, asked: &Asked) -> Cow<'a, str> {
    if !asked.is_partial {
        return json.into();
    }
    let metadata = &parsed(json)["metadata"];
    let kind =
        json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
    kind.to_string().into()
}

fn list(
    stream: &TcpStream,
    shared: &Shared,
    asked: &Asked,
    collection: &str,
    namespace: Option<&str>,
    behaviour: &Behaviour,
) -> io::Result<bool> {
    let wanted = asked.parameter("limit").and_then(|limit| limit.parse::<usize>().ok()).filter(|&it| it > 0);
    let limit = wanted.unwrap_or(usize::MAX).min(behaviour.page.unwrap_or(usize::MAX));
    let store = lock(&shared.store);
    let known = &store.collections[collection];
    // A page goes on after a name, at the version of the first page.
    let (version, after) = match asked.parameter("continue").map(|token| token.splitn(3, '|')) {
        None => (store.version, None),
        Some(mut parts) => {
            let version = parts.next().and_then(|it| it.parse().ok()).unwrap_or(0);
            let mut name = || parts.next().unwrap_or_default().to_owned();
            (version, Some((name(), name())))
        }
    };
    if version < store.forgotten {
        drop(store);
        return refuse(stream, 410, "Expired", "The provided continue parameter is too old");
    }
    let selector = asked.parameter("fieldSelector");
    let meant = known.objects.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
    let mut meant = meant.filter(|(key, (_, json))| is_meant(key, json, namespace, selector)).peekable();
    let (mut body, mut last) = (String::from("\"items\":["), None);
    for (key, (_, json)) in meant.by_ref().take(limit) {
        body.push_str(if last.is_some() { "," } else { "" });
        // As in a real list, elements do not repeat what they are.
        body.push_str(&shown(json, asked));
        last = Some(key);
    }
    body.push(']');
    let more = meant.peek().and(last).map(|(space, name)| format!("{version}|{space}|{name}"));
    let metadata = match more {
        Some(token) => json!({ "resourceVersion": version.to_string(), "continue": token }),
        None => json!({ "resourceVersion": version.to_string() }),
    };
    let (kind, api_version) = (&known.kind, &known.api_version);
    let body = format!(
        "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},{body}}}"
    );
    drop(store);
    write_json(stream, 200, &body).map(|()| true)
}

fn watch(
    stream: &TcpStream,
    shared: &Shared,
    asked: &Asked,
    collection: &str,
    namespace: Option<&str>,
    behaviour: &Behaviour,
) -> io::Result<()> {
    let from = asked.parameter("resourceVersion").and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    let seconds = asked.parameter("timeoutSeconds").and_then(|it| it.parse().ok()).map(Duration::from_secs);
    let deadline = Instant::now() + seconds.unwrap_or(WATCH);
    let bookmarks = asked.parameter("allowWatchBookmarks") == Some("true");
    let selector = asked.parameter("fieldSelector");
    let gone = from < lock(&shared.store).forgotten;
    let message = format!("too old resource version: {from}");
    if gone && behaviour.gone_by_status {
        return refuse(stream, 410, "Expired", &message).map(drop);
    }
    let mut chunks = Chunks { stream, left: behaviour.cut_after };
    chunks.head()?;
    if gone {
        let event = json!({ "type": "ERROR", "object": status(410, "Expired", &message) });
        chunks.write(&format!("{event}\n"))?;
        return chunks.end();
    }
    let (mut seen, round) = (from, *lock(&shared.round));
    loop {
        let store = lock(&shared.store);
        let log = &store.collections[collection].log;
        let news: Vec<Happened> = log[log.partition_point(|it| it.version <= seen)..].to_vec();
        if news.is_empty() {
            let waited = shared.changed.wait_timeout(store, TICK);
            drop(waited);
        } else {
            drop(store);
        }
        if shared.stop.load(Ordering::Relaxed) || *lock(&shared.round) != round {
            return Ok(());
        }
        for happened in news {
            seen = happened.version;
            let is_for_us = match &happened.key {
                None => bookmarks,
                Some(key) => is_meant(key, &happened.object, namespace, selector),
            };
            if is_for_us {
                let object = shown(&happened.object, asked);
                chunks.write(&format!("{{\"type\":\"{}\",\"object\":{object}}}\n", happened.type_))?;
            }
        }
        if Instant::now() >= deadline {
            return chunks.end();
        }
    }
}

/// A stream that ends nobody knows when.
struct Chunks<'a> {
    stream: &'a TcpStream,
    /// Bytes until it is cut.
    left: Option<usize>,
}

impl Chunks<'_> {
    fn head(&mut self) -> io::Result<()> {
        self.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", line.len()).into_bytes();
        chunk.extend_from_slice(line.as_bytes());
        chunk.extend_from_slice(b"\r\n");
        self.raw(&chunk)
    }

    fn end(&mut self) -> io::Result<()> {
        self.raw(b"0\r\n\r\n")
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(left) = &mut self.left else { return self.stream.write_all(bytes) };
        let part = &bytes[..bytes.len().min(*left)];
        *left -= part.len();
        let is_cut = part.len() < bytes.len();
        self.stream.write_all(part)?;
        if is_cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

fn patch_status(
    stream: &TcpStream,
    shared: &Shared,
    asked: &Asked,
    collection: &str,
    key: &Key,
) -> io::Result<bool> {
    let Ok(patch) = serde_json::from_slice::<Value>(&asked.body) else {
        return refuse(stream, 400, "BadRequest", "no JSON");
    };
    let mut store = lock(&shared.store);
    let Some((version, json)) = store.collections[collection].objects.get(key).cloned() else {
        drop(store);
        return refuse(stream, 404, "NotFound", "no such object");
    };
    if let Some(wanted) = patch["metadata"]["resourceVersion"].as_str()
        && wanted != version.to_string()
    {
        drop(store);
        return refuse(stream, 409, "Conflict", "the object has been modified");
    }
    let mut object = parsed(&json);
    object["status"] = patch["status"].clone();
    store.put(&object);
    let json = std::sync::Arc::clone(&store.collections[collection].objects[key].1);
    drop(store);
    shared.changed.notify_all();
    write_json(stream, 200, &json).map(|()| true)
}
