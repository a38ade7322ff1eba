//! A receiver of OpenTelemetry that takes whatever it is sent and forgets it: what sending costs is the agent's part alone.
//! Reads nothing of what it gets but how long it is.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Context;

use crate::node::Node;

/// Where it listens, as an agent is told.
pub(super) const URL: &str = "http://127.0.0.1:4318";
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4318);

/// One that runs until the process ends.
pub(super) struct Receiver {
    spans: Arc<AtomicU64>,
}

impl Receiver {
    /// Starts it in a node's network, as a thread of this process, whose time nobody counts.
    pub(super) fn start(node: &Node) -> anyhow::Result<Self> {
        let listener = node
            .within(|| TcpListener::bind(ADDRESS).with_context(|| format!("cannot listen on {ADDRESS}")))?;
        let spans = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                // An agent that ends in the middle is no error.
                thread::spawn(move || drop(swallow(stream, &counted)));
            }
        });
        Ok(Self { spans })
    }

    /// How many requests with spans it took so far.
    pub(super) fn requests_with_spans(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }
}

/// Takes requests on one connection until it ends.
fn swallow(stream: TcpStream, spans: &AtomicU64) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let text = line.trim().to_ascii_lowercase();
        if text.contains("/v1/traces") {
            spans.fetch_add(1, Ordering::Relaxed);
        } else if let Some(bytes) = text.strip_prefix("content-length:") {
            length = bytes.trim().parse().map_err(io::Error::other)?;
        } else if text.is_empty() {
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
            length = 0;
            let answer =
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
            reader.get_mut().write_all(answer.as_bytes())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_on_one_connection_are_swallowed_with_their_bodies_and_those_with_spans_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let spans = AtomicU64::new(0);
        let answers = thread::scope(|scope| {
            scope.spawn(|| swallow(listener.accept().unwrap().0, &spans).unwrap());
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"POST /v1/traces HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n").unwrap();
            stream.write_all(b"POST /v1/metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            io::read_to_string(stream).unwrap()
        });
        assert_eq!((answers.matches("200 OK").count(), spans.into_inner()), (2, 1));
    }
}
