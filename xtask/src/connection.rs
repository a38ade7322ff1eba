//! A client's HTTP connection, as the demo and the benchmarks open them: a request, an answer, the name in it. It does
//! not know whom it talks to, nor what an answer is worth.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// An HTTP/1.1 connection.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects. Connecting and each later wait for the server may take `limit`.
    pub(crate) fn open(server: SocketAddr, limit: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, limit).context("connect")?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks for `/`, with this `Connection` header; the answer's body is the server's name.
    pub(crate) fn ask(&mut self, connection: &str) -> anyhow::Result<String> {
        let request = format!("GET / HTTP/1.1\r\nHost: payment\r\nConnection: {connection}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).context("send")?;
        let mut line = String::new();
        self.0.read_line(&mut line).context("answer")?;
        if !line.starts_with("HTTP/1.1 200") {
            bail!("answer {:?}", line.trim());
        }
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).context("answer")?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().context("content-length")?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).context("answer's body")?;
        Ok(String::from_utf8_lossy(&body).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(10);

    fn serve_once(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn the_body_of_an_answer_is_the_name_of_the_server() {
        let address = serve_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npayment-a\n");
        assert_eq!(Connection::open(address, LIMIT).unwrap().ask("close").unwrap(), "payment-a");
    }

    #[test]
    fn an_answer_that_is_cut_off_or_not_200_is_a_failure() {
        let cut = serve_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npay");
        assert!(Connection::open(cut, LIMIT).unwrap().ask("close").is_err());
        let refused = serve_once("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
        assert!(Connection::open(refused, LIMIT).unwrap().ask("close").is_err());
    }
}
