//! One request to a receiver, and what its answer means. Knows no metric.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::message::{self, Refused};
use super::{Options, Outcome, Signal};

/// For a request as a whole, with its connection and its answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer, in bytes; a whole one has tens.
const LONGEST_ANSWER: usize = 65_536;
/// What is shown of a receiver's words, in characters.
const LONGEST_WORDS: usize = 200;

type Failure = Box<dyn Error + Send + Sync>;

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    options: Options,
    signal: Signal,
    path: String,
}

impl Client {
    /// One that sends messages of this kind.
    pub(super) fn new(options: Options, signal: Signal) -> Self {
        let path = options.endpoint.path(signal);
        Self { options, signal, path }
    }

    /// Sends one message.
    pub(super) async fn send(&self, body: Vec<u8>) -> Outcome {
        let error = match tokio::time::timeout(TIMEOUT, self.exchange(body)).await {
            Ok(Ok((status, headers, body))) => {
                return outcome(self.signal, status, &headers, &body, Timestamp::now());
            }
            Ok(Err(error)) => format!("{error}; does the receiver run, and can this host reach it?"),
            Err(_) => format!("no answer within {} s; is the receiver overloaded?", TIMEOUT.as_secs()),
        };
        Outcome::Failed { error, retry_after: None }
    }

    /// A connection for each request: they are seconds apart, and receivers are replaced.
    async fn exchange(&self, body: Vec<u8>) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        let endpoint = &self.options.endpoint;
        let stream = TcpStream::connect(endpoint.target()).await?;
        match &self.options.trust {
            Some(trust) => self.post(trust.secured(stream, endpoint.target().0).await?, body).await,
            None => self.post(stream, body).await,
        }
    }

    async fn post<S>(&self, stream: S, body: Vec<u8>) -> Result<(StatusCode, HeaderMap, Bytes), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let endpoint = &self.options.endpoint;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        let request = Request::post(&self.path)
            .header(HOST, endpoint.authority())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("segue/", env!("CARGO_PKG_VERSION")));
        let mut request = request.body(Full::new(body.into()))?;
        for header in &self.options.headers {
            request.headers_mut().insert(header.name.clone(), header.value.clone());
        }
        let exchange = async {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok((parts.status, parts.headers, body))
        };
        // Driven here, not by a task: with this future ends all that belongs to the request.
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                answer = &mut exchange => return answer,
                // Its errors are those of the answer.
                _ = &mut connection, if open => open = false,
            }
        }
    }
}

/// What an answer means, by the specification of OTLP.
fn outcome(signal: Signal, status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Outcome {
    if status.is_success() {
        return match message::refused(signal, body) {
            None => Outcome::Ok,
            Some(Refused { count, message }) => {
                let error =
                    format!("the receiver did not take {count} {}: {}", signal.units(), words(&message));
                Outcome::Rejected { count: Some(count), error }
            }
        };
    }
    let hint = match status.as_u16() {
        401 | 403 => "; does --otlp-header say who the agent is?",
        404 | 405 if signal == Signal::Traces => "; is the path right, and does it take traces?",
        404 | 405 => {
            "; is the path right? Prometheus wants http://HOST:PORT/api/v1/otlp and --web.enable-otlp-receiver"
        }
        413 => "; is the receiver's limit on a request below 4 MB?",
        _ => "; what does the receiver's log say?",
    };
    let error = format!("the receiver answers {}{hint}", status.as_u16());
    match status.as_u16() {
        429 | 502 | 503 | 504 => Outcome::Failed { error, retry_after: retry_after(headers, now) },
        _ => Outcome::Rejected { count: None, error },
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    Some(at.duration_since(now).try_into().unwrap_or_default())
}

/// A receiver's words, to be shown on a line.
fn words(text: &str) -> String {
    text.chars().take(LONGEST_WORDS).map(|one| if one.is_control() { ' ' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::{Endpoint, Header};
    use super::*;

    fn judged(status: u16, retry_after: &str) -> Outcome {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().expect("a value"));
        let status = StatusCode::from_u16(status).expect("a status");
        outcome(Signal::Metrics, status, &headers, &[], "2026-10-21T07:28:00Z".parse().expect("a time"))
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_before_the_receiver_says() {
        for (status, told, seconds) in [
            (429, "7", Some(7)),
            (503, "Wed, 21 Oct 2026 07:28:30 GMT", Some(30)),
            (503, "Wed, 21 Oct 2026 07:27:30 GMT", Some(0)),
            (502, "soon", None),
            (504, "-1", None),
        ] {
            let Outcome::Failed { retry_after, .. } = judged(status, told) else { panic!("{status}") };
            assert_eq!(retry_after.map(|wait| wait.as_secs()), seconds, "{told}");
        }
        for status in [301, 400, 401, 404, 413, 500] {
            assert!(matches!(judged(status, "7"), Outcome::Rejected { count: None, .. }), "{status}");
        }
        assert_eq!(judged(200, "7"), Outcome::Ok);
    }

    #[tokio::test]
    async fn a_request_has_its_headers_and_length_and_the_answer_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let receiver = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\nmetrics") {
                assert!(stream.read_buf(&mut request).await.expect("a request") > 0);
            }
            stream
                .write_all(b"HTTP/1.1 503 Busy\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n")
                .await
                .expect("sent");
            String::from_utf8(request).expect("text")
        });
        let endpoint = Endpoint::parse(&format!("http://localhost:{port}/otlp")).expect("a URL");
        let headers = vec![Header::parse("authorization=Bearer x").expect("a header")];
        let options =
            Options { endpoint, interval: Duration::from_secs(1), headers, trust: None, traces: None };
        let client = Client::new(options, Signal::Metrics);
        let outcome = client.send(b"metrics".to_vec()).await;
        let request = receiver.await.expect("no panic");
        for line in [
            "POST /otlp/v1/metrics HTTP/1.1\r\n",
            &format!("host: localhost:{port}\r\n"),
            "content-type: application/x-protobuf\r\n",
            "content-length: 7\r\n",
            "authorization: Bearer x\r\n",
        ] {
            assert!(request.contains(line), "{line} in {request}");
        }
        let Outcome::Failed { retry_after, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(3)));
        assert!(matches!(client.send(Vec::new()).await, Outcome::Failed { .. }), "nobody listens now");
    }
}
