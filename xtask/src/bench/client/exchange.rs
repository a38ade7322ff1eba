//! One connection of the client: a request on it, the answer to it, and whether that has the bytes it should. It does
//! not know when requests are due.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, bail};

/// Room for an answer with everything that proxies add.
const LONGEST_ANSWER: usize = 4096;

/// Header lines that an answer may have.
const MAX_HEADERS: usize = 32;

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something is missing.
    Waiting,
    /// The answer is here; and the connection has ended, where it was to end.
    Answered,
    /// There will be none, or it says that somebody between client and server failed.
    Failed,
}

/// A connection and its request.
pub(super) struct Exchange {
    stream: TcpStream,
    until_closed: bool,
    begun_ns: u64,
    busy: bool,
    sent: bool,
    filled: usize,
    buffer: Box<[u8; LONGEST_ANSWER]>,
}

impl Exchange {
    /// A connection that may still be connecting. With `until_closed`, an answer is there when the server has ended
    /// the connection.
    pub(super) fn new(stream: TcpStream, until_closed: bool) -> Self {
        let buffer = Box::new([0; LONGEST_ANSWER]);
        Self { stream, until_closed, begun_ns: 0, busy: false, sent: false, filled: 0, buffer }
    }

    /// When the request began or was due.
    pub(super) fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// Whether an answer is awaited.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Sends a request, or does so once the connection is there; whether that can still become an answer.
    pub(super) fn begin(&mut self, at_ns: u64, request: &[u8]) -> bool {
        (self.begun_ns, self.busy, self.sent, self.filled) = (at_ns, true, false, 0);
        self.send(request)
    }

    fn send(&mut self, request: &[u8]) -> bool {
        match self.stream.write(request) {
            // A request is far smaller than any socket's buffer: it is taken whole.
            Ok(written) => self.sent = written == request.len(),
            Err(error) => return is_early(&error),
        }
        self.sent
    }

    /// Goes on after an event. The events are edges: it reads until there is no more or the answer is complete.
    pub(super) fn advance(&mut self, request: &[u8], bodies: &[String]) -> anyhow::Result<Progress> {
        if !self.busy {
            // What else an idle connection tells is found out when it is used.
            return Ok(Progress::Waiting);
        }
        if !self.sent && !self.send(request) {
            return Ok(Progress::Failed);
        }
        loop {
            let progress = check(&self.buffer[..self.filled], bodies)?;
            let complete = progress == Progress::Answered;
            if progress == Progress::Failed {
                return Ok(Progress::Failed);
            }
            if complete && !self.until_closed {
                self.busy = false;
                return Ok(Progress::Answered);
            }
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) if complete => {
                    self.busy = false;
                    return Ok(Progress::Answered);
                }
                Ok(count) if count > 0 => self.filled += count,
                Err(error) if is_early(&error) => return Ok(Progress::Waiting),
                Ok(_) | Err(_) => return Ok(Progress::Failed),
            }
        }
    }
}

/// Whether a call came before what it needs was there.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Whether these bytes are one whole answer with one of the bodies; an error where they are somebody else's.
fn check(bytes: &[u8], bodies: &[String]) -> anyhow::Result<Progress> {
    if bytes.is_empty() {
        return Ok(Progress::Waiting);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).context("an answer that is no HTTP")? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial if bytes.len() < LONGEST_ANSWER => return Ok(Progress::Waiting),
        httparse::Status::Partial => bail!("an answer's head is longer than {LONGEST_ANSWER} bytes"),
    };
    if response.code != Some(200) {
        return Ok(Progress::Failed);
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let length = length.context("an answer without a length")?;
    let body = &bytes[head..];
    if body.len() < length {
        return Ok(Progress::Waiting);
    }
    if !bodies.iter().any(|expected| expected.as_bytes() == body) {
        bail!("an answer with other bytes: {:?}", String::from_utf8_lossy(body));
    }
    Ok(Progress::Answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_right_or_an_error() {
        let bodies = ["a\n".to_owned(), "b\n".to_owned()];
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 2\r\n\r\nb\n";
        for cut in 0..whole.len() {
            assert_eq!(check(&whole[..cut], &bodies).unwrap(), Progress::Waiting, "cut after {cut}");
        }
        assert_eq!(check(whole, &bodies).unwrap(), Progress::Answered);
        let unavailable = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\na\n";
        assert_eq!(check(unavailable, &bodies).unwrap(), Progress::Failed);
        for wrong in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nc\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na\nb",
            b"HTTP/1.1 200 OK\r\n\r\na\n",
            b"SSH-2.0",
        ] {
            assert!(check(wrong, &bodies).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
