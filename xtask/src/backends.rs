//! Healthy servers of benchmarks, each of which answers its own name: nginx where it is installed, else a
//! few lines of ours. They listen on every address of their namespace.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::host;
use crate::node::{Node, Place, Process};

/// The first server's port; the others follow.
const FIRST_PORT: u16 = 8081;

const READY_LIMIT: Duration = Duration::from_secs(10);

/// Which servers to be.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The names, in the order of ports.
    names: Vec<String>,
}

/// What is spoken, and nothing else. All but the first takes nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// HTTP/1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/1 inside TLS.
    Https,
}

/// A server to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server<'n> {
    /// What it answers.
    pub(crate) name: &'n str,
    /// How.
    pub(crate) speech: Speech,
}

/// An address of the server with this index.
pub(crate) fn address(index: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + index))
}

/// Each name with its address.
fn addresses<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, SocketAddr)> {
    (0..).zip(names).map(|(index, name)| (name, address(index))).collect()
}

/// Starts a server for each name on a node and waits until all answer.
pub(crate) fn start(node: &Node, names: &[&str]) -> anyhow::Result<Process> {
    let servers: Vec<_> = names.iter().map(|name| Server { name, speech: Speech::Http1 }).collect();
    start_each(node, &servers)
}

/// The same, of servers that may speak something else.
pub(crate) fn start_each(node: &Node, wanted: &[Server<'_>]) -> anyhow::Result<Process> {
    let names = wanted.iter().map(|server| server.name);
    let servers = addresses(names.clone());
    let mut command = if let Some(nginx) = host::program("nginx") {
        let mut command = node.command(&nginx, Place::Beside)?;
        command.arg("-c").arg(write_nginx_config(node, wanted)?);
        command.arg("-e").arg(node.directory().join("backends.log"));
        command
    } else {
        if wanted.iter().any(|server| server.speech != Speech::Http1) {
            bail!("a server of HTTP/2 and TLS is needed: install nginx (Debian: nginx-light)");
        }
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut command = node.command(&own, Place::Beside)?;
        command.arg("backends").args(names);
        command
    };
    command.stdout(Stdio::null());
    let mut process = Process::start("the backends", &mut command, &node.directory().join("backends.log"))?;
    let all_answer = || {
        node.within(|| {
            Ok(servers.iter().all(|(_, at)| TcpStream::connect_timeout(at, Duration::from_secs(1)).is_ok()))
        })
    };
    process.wait_until("ready", READY_LIMIT, all_answer)?;
    Ok(process)
}

fn write_nginx_config(node: &Node, servers: &[Server<'_>]) -> anyhow::Result<PathBuf> {
    let directory = node.directory();
    let at = directory.display();
    let mut text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {at}/nginx.pid;\nevents {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000;\n  default_type text/plain;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("  {kind}_temp_path {at}/{kind};\n"));
    }
    if servers.iter().any(|server| server.speech == Speech::Https) {
        text.push_str(&certificate(node)?);
    }
    for (index, Server { name, speech }) in (0..).zip(servers) {
        let port = address(index).port();
        let how = match speech {
            Speech::Http1 => "",
            Speech::Http2 => "http2 ",
            Speech::Https => "ssl ",
        };
        text.push_str(&format!(
            "  server {{ listen {port} {how}backlog=4096; location / {{ return 200 \"{name}\\n\"; }} }}\n"
        ));
    }
    text.push_str("}\n");
    let path = directory.join("nginx.conf");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Makes a certificate that vouches for itself, and gives the directives that name it.
fn certificate(node: &Node) -> anyhow::Result<String> {
    let openssl = host::program("openssl").context("a certificate is needed: install openssl")?;
    let [settings, key, certificate] =
        ["openssl.cnf", "key.pem", "certificate.pem"].map(|name| node.directory().join(name));
    // Its own configuration, wherever OpenSSL would look for one.
    fs::write(&settings, "[req]\ndistinguished_name = name\n[name]\n")
        .with_context(|| format!("cannot write {}", settings.display()))?;
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-days", "1", "-subj", "/CN=bench", "-nodes"]);
    command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-config"]).arg(settings);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let output = command.output().context("cannot run openssl")?;
    if !output.status.success() {
        bail!("openssl makes no certificate: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(format!("  ssl_certificate {};\n  ssl_certificate_key {};\n", certificate.display(), key.display()))
}

/// Serves until killed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    thread::scope(|scope| {
        for (name, address) in addresses(arguments.names.iter().map(String::as_str)) {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
                .with_context(|| format!("cannot listen on {address}"))?;
            scope.spawn(move || serve(&listener, name));
        }
        Ok(())
    })
}

fn serve(listener: &TcpListener, name: &str) {
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            // A client that goes away in the middle is its own business.
            scope.spawn(move || drop(answer(stream, name, || true)));
        }
    });
}

/// Answers requests on one connection until the client asks to close it or goes, or `may_answer`, asked after each
/// request, says no.
pub(crate) fn answer(
    stream: TcpStream,
    name: &str,
    mut may_answer: impl FnMut() -> bool,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut close = false;
    let mut line = String::new();
    while !close {
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            close |= line.trim().eq_ignore_ascii_case("connection: close");
        }
        if !may_answer() {
            return Ok(());
        }
        let body = format!("{name}\n");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all((head + &body).as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_answers_its_name_until_asked_to_close() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0, "payment-a", || true));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let text = std::io::read_to_string(stream).unwrap();
        assert_eq!(text.matches("payment-a\n").count(), 2, "{text}");
        assert!(server.join().unwrap().is_ok());
    }
}
