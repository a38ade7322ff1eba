//! The demo's client: a process that knows a service address and nothing else. It opens one connection after
//! another, keeps one open all the time, and prints a line for each answer: `NAME` for a new connection, `=NAME`
//! for the open one, `!REASON` or `=!REASON` where there was none.

use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

/// Clients that open connections side by side.
const CLIENTS: usize = 4;

/// Between two connections of a client: a load that leaves a small machine room for everything else.
const PAUSE: Duration = Duration::from_millis(4);

/// Between two requests on the open connection.
const HELD_PAUSE: Duration = Duration::from_millis(50);

/// For connecting and for answering; longer is a failure.
const LIMIT: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The service address.
    service: SocketAddr,
}

/// Runs until its output is closed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let service = arguments.service;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(move || {
                while say("", Connection::open(service).and_then(|mut one| one.ask("close"))) {
                    thread::sleep(PAUSE);
                }
            });
        }
        hold(service);
    });
    Ok(())
}

/// Keeps one connection open and asks on it. Where it breaks, says so and opens another.
fn hold(service: SocketAddr) {
    loop {
        let mut connection = match Connection::open(service) {
            Ok(connection) => connection,
            Err(error) => {
                if !say("=", Err(error)) {
                    return;
                }
                thread::sleep(HELD_PAUSE);
                continue;
            }
        };
        loop {
            let answer = connection.ask("keep-alive");
            let broken = answer.is_err();
            if !say("=", answer) {
                return;
            }
            thread::sleep(HELD_PAUSE);
            if broken {
                break;
            }
        }
    }
}

/// Prints what an answer was; whether anyone still listens.
fn say(mark: &str, answer: anyhow::Result<String>) -> bool {
    let line = match answer {
        Ok(name) => format!("{mark}{name}\n"),
        Err(error) => format!("{mark}!{}\n", format!("{error:#}").replace('\n', " ")),
    };
    stdout().lock().write_all(line.as_bytes()).is_ok()
}

/// An HTTP connection.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(service: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&service, LIMIT).context("connect")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks for `/`; the answer's body is the server's name.
    fn ask(&mut self, connection: &str) -> anyhow::Result<String> {
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
        assert_eq!(Connection::open(address).unwrap().ask("close").unwrap(), "payment-a");
    }

    #[test]
    fn an_answer_that_is_cut_off_or_not_200_is_a_failure() {
        let cut = serve_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npay");
        assert!(Connection::open(cut).unwrap().ask("close").is_err());
        let refused = serve_once("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
        assert!(Connection::open(refused).unwrap().ask("close").is_err());
    }
}
