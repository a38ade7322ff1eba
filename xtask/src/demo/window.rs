//! A way out of the node for a browser: a port of this host on which the agent's page can be opened. Bytes go to and fro as
//! they are.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::node::{AGENT_LISTENS, Node};

/// How often it is looked whether somebody connects, and whether it is over.
const TICK: Duration = Duration::from_millis(50);

/// Connections served at a time; a browser opens six.
const MOST: usize = 16;

/// The window; it closes on drop, and connections through it with the node.
pub(super) struct Window {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Window {
    /// Opens it: at the port the agent has in its node, or at another where that is taken here.
    pub(super) fn open(node: &Node) -> anyhow::Result<Self> {
        let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = at(AGENT_LISTENS.port()).or_else(|_| at(0)).context("cannot listen on this host")?;
        listener.set_nonblocking(true).context("cannot wait for connections")?;
        let address = listener.local_addr().context("a listener has an address")?;
        let closed = Arc::new(AtomicBool::new(false));
        let (door, node) = (Arc::clone(&closed), node.entrance()?);
        let places = Arc::new(());
        thread::spawn(move || {
            while !door.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) if Arc::strong_count(&places) <= MOST => {
                        let place = Arc::clone(&places);
                        // An agent that is away, as in the second act, is a connection that ends at once.
                        if let Ok(inside) = node.within(|| Ok(TcpStream::connect(AGENT_LISTENS)?)) {
                            thread::spawn(move || {
                                let _place = place;
                                let _ended = join(stream, inside);
                            });
                        }
                    }
                    Ok(_) | Err(_) => thread::sleep(TICK),
                }
            }
        });
        Ok(Self { address, closed })
    }

    /// What to open in a browser.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// Hands on in both directions until both have ended.
fn join(outside: TcpStream, inside: TcpStream) -> io::Result<()> {
    outside.set_nonblocking(false)?;
    let (from, to) = (outside.try_clone()?, inside.try_clone()?);
    let there = thread::spawn(move || hand_on(from, to));
    let back = hand_on(inside, outside);
    there.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
    back
}

fn hand_on(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    let _gone = to.shutdown(Shutdown::Write);
    copied.map(drop)
}
