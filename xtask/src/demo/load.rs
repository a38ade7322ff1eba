//! The demo's client: a process that knows a service address and nothing else. It opens one connection after
//! another, keeps one open all the time, and prints a line for each answer: `NAME` for a new connection, `=NAME`
//! for the open one, `!REASON` or `=!REASON` where there was none.

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::connection::Connection;

/// Clients that open connections side by side.
pub(crate) const CLIENTS: u64 = 4;

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
                while say("", Connection::open(service, LIMIT).and_then(|mut one| one.ask("close"))) {
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
        let mut connection = match Connection::open(service, LIMIT) {
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
