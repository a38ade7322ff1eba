//! Asks a running agent: HTTP over its unix socket, with errors that say what to check.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DEFAULT_SOCKET;
use super::table::BAD;
use crate::admin::view::Failure;

/// How long an answer may take. Reading 10 000 edges takes well under a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest line of a stream, in bytes; a record is some 500.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Which agent to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectArgs {
    /// Unix socket of the agent's admin API
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there, or not for this user.
    #[error("cannot reach the agent at {}: {why}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What is wrong, and what to check.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to the agent broke: {0}; did it stop? See its log")]
    Broken(#[from] hyper::Error),
    /// No answer in time.
    #[error("the agent did not answer within {} s; is the host overloaded? See the agent's log", ANSWER_TIMEOUT.as_secs())]
    Slow,
    /// The agent said no.
    #[error("the agent refused ({status}): {error}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the agent said.
        error: String,
    },
    /// The answer is not what this build expects.
    #[error("the agent's answer is not understood: {0}; are this command and the agent of the same version?")]
    Answer(String),
}

impl ClientError {
    fn unreachable(path: PathBuf, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "no such file; is `segue run` running?".to_owned(),
            io::ErrorKind::ConnectionRefused => {
                "nobody answers on the socket; did the agent die? Start `segue run` again".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied; ask as root or as the agent's user".to_owned()
            }
            _ => format!("{error}; is `segue run` running?"),
        };
        Self::Unreachable { path, why }
    }

    /// Tells the operator on the standard error output, and gives the exit code for it: 1.
    pub fn report(&self) -> ExitCode {
        anstream::eprintln!("{BAD}segue:{BAD:#} {self}");
        ExitCode::FAILURE
    }
}

/// A client of one agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The value at `path`.
    ///
    /// # Errors
    /// The agent cannot be reached, refuses, is slow, or answers something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = hyper::Request::get(path);
        self.answer(self.request(request, Bytes::new())).await
    }

    /// The answer to `body`, sent as JSON to `path`.
    ///
    /// # Errors
    /// The agent cannot be reached, refuses, is slow, or answers something else.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Answer(error.to_string()))?;
        let request = hyper::Request::post(path).header("content-type", "application/json");
        self.answer(self.request(request, body.into())).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        response: impl Future<Output = Result<Response<Incoming>, ClientError>>,
    ) -> Result<T, ClientError> {
        let read = async { Ok::<_, ClientError>(response.await?.into_body().collect().await?) };
        let body = tokio::time::timeout(ANSWER_TIMEOUT, read).await.map_err(|_| ClientError::Slow)??;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| ClientError::Answer(error.to_string()))
    }

    /// The lines of the stream at `path`.
    ///
    /// # Errors
    /// The agent cannot be reached, refuses, or is slow to begin.
    pub async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let answer =
            tokio::time::timeout(ANSWER_TIMEOUT, self.request(hyper::Request::get(path), Bytes::new()));
        let body = answer.await.map_err(|_| ClientError::Slow)??.into_body();
        Ok(Lines { body, pending: Vec::new() })
    }

    async fn request(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::unreachable(self.socket.clone(), &error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        // Its errors are those of the response.
        tokio::spawn(connection);
        let request = request
            .header("host", "agent")
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let error = match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => failure.error,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        Err(ClientError::Refused { status, error })
    }
}

/// A stream of lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` where the agent ended the stream.
    ///
    /// # Errors
    /// The connection broke, or a line is longer than any record.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return String::from_utf8(line)
                    .map(Some)
                    .map_err(|error| ClientError::Answer(error.to_string()));
            }
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(ClientError::Answer(format!("a line of more than {MAX_LINE_BYTES} bytes")));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::Status;

    async fn error_at(path: PathBuf) -> String {
        Client::new(path).get::<Status>("/v1/status").await.expect_err("nobody is there").to_string()
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_an_error_that_says_what_to_check() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segue.sock");
        let missing = error_at(path.clone()).await;
        assert!(missing.ends_with("segue.sock: no such file; is `segue run` running?"), "{missing}");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let dead = error_at(path).await;
        assert!(dead.contains("nobody answers on the socket"), "{dead}");
    }

    #[tokio::test]
    async fn an_answer_of_another_version_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segue.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let router = axum::Router::new()
            .route("/v1/status", axum::routing::get(|| async { "{\"version\":\"9.0.0\"}" }));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let error = error_at(path).await;
        server.abort();
        assert!(error.contains("of the same version"), "{error}");
    }
}
