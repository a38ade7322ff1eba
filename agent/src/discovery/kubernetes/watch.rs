//! One kind of objects, listed and then watched for ever. Knows how to ask again; not what objects mean.

use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::time::Duration;

use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::StreamExt as _;

use super::client::{KubernetesError, Reached, Wanted};
use super::objects::{Kind, Object};
use super::standing::{Standing, Trouble};
use super::state::Event;
use super::wire::{
    EndpointSliceWire, HttpRouteWire, NamespaceWire, NodeWire, PodWire, Seen, ServiceWire, TcpRouteWire,
    TrafficPolicyWire, Wire,
};

/// Objects of one page of a list. What a page takes in memory is gone when the next one is read.
const PAGE: u32 = 500;
/// The API server is to end a watch after a time between these two, so that those of many nodes end at many times.
const SHORTEST_WATCH: Duration = Duration::from_secs(150);
/// See [`SHORTEST_WATCH`].
pub(super) const LONGEST_WATCH: Duration = Duration::from_secs(210);
/// The first pause after something went wrong, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// What the cluster does not know, or does not show, is asked for again after about so long.
const ABSENT_PAUSE: Duration = Duration::from_secs(30);

/// Starts the watch of every kind.
pub(super) fn start(
    tasks: &mut tokio::task::JoinSet<()>,
    reached: &Reached,
    events: &mpsc::Sender<Event>,
    standing: &Standing,
) -> Result<(), KubernetesError> {
    let watch = |kind| {
        let heard = standing.clone();
        let answered = move || heard.with_kind(kind, |standing| standing.trouble = None);
        let wanted = if kind.is_metadata_only() { Wanted::MetadataOfAll } else { Wanted::All };
        Ok::<_, KubernetesError>(Watch {
            client: reached.client(wanted, answered)?,
            node: reached.node.clone(),
            kind,
            events: events.clone(),
            standing: standing.clone(),
            pause: PAUSES.0,
        })
    };
    for &kind in Kind::ALL {
        match kind {
            Kind::Node => tasks.spawn(watch(kind)?.run::<NodeWire>()),
            Kind::Service => tasks.spawn(watch(kind)?.run::<ServiceWire>()),
            Kind::EndpointSlice => tasks.spawn(watch(kind)?.run::<EndpointSliceWire>()),
            Kind::TrafficPolicy => tasks.spawn(watch(kind)?.run::<TrafficPolicyWire>()),
            Kind::HttpRoute => tasks.spawn(watch(kind)?.run::<HttpRouteWire>()),
            Kind::TcpRoute => tasks.spawn(watch(kind)?.run::<TcpRouteWire>()),
            Kind::Pod => tasks.spawn(watch(kind)?.run::<PodWire>()),
            Kind::Namespace => tasks.spawn(watch(kind)?.run::<NamespaceWire>()),
        };
    }
    Ok(())
}

/// What an object of this kind becomes on a node; `None` where it is of no use.
///
/// # Errors
/// It is no JSON.
pub fn decode(kind: Kind, json: &[u8], node: &str) -> Result<Option<Object>, serde_json::Error> {
    fn read<W: Wire>(json: &[u8], node: &str) -> Result<Option<Object>, serde_json::Error> {
        serde_json::from_slice::<Seen<W>>(json).map(|seen| seen.object(node))
    }
    match kind {
        Kind::Node => read::<NodeWire>(json, node),
        Kind::Service => read::<ServiceWire>(json, node),
        Kind::EndpointSlice => read::<EndpointSliceWire>(json, node),
        Kind::TrafficPolicy => read::<TrafficPolicyWire>(json, node),
        Kind::HttpRoute => read::<HttpRouteWire>(json, node),
        Kind::TcpRoute => read::<TcpRouteWire>(json, node),
        Kind::Pod => read::<PodWire>(json, node),
        Kind::Namespace => read::<NamespaceWire>(json, node),
    }
}

/// A time up to this long, by chance.
pub(super) fn by_chance(longest: Duration) -> Duration {
    let draw = RandomState::new().hash_one(0_u8) >> 32;
    longest.mul_f64(f64::from(u32::try_from(draw).unwrap_or_default()) / f64::from(u32::MAX))
}

struct Watch {
    client: Client,
    node: String,
    kind: Kind,
    events: mpsc::Sender<Event>,
    standing: Standing,
    /// The next pause.
    pause: Duration,
}

impl Watch {
    /// Until nobody receives events any more.
    async fn run<W: Wire>(mut self) {
        while !self.events.is_closed() {
            self.session::<W>().await;
        }
    }

    /// Lists and watches until there is a reason to list anew, or nobody listens.
    async fn session<W: Wire>(&mut self) {
        let length = SHORTEST_WATCH + by_chance(LONGEST_WATCH - SHORTEST_WATCH);
        let mut config = watcher::Config::default().page_size(PAGE);
        config.timeout = u32::try_from(length.as_secs()).ok();
        match self.kind {
            Kind::Node => config = config.fields(&format!("metadata.name={}", self.node)),
            // From the API server's cache, as the kubelet does: to find one node's pods in the store, it reads all there are.
            Kind::Pod => config = config.fields(&format!("spec.nodeName={}", self.node)).any_semantic(),
            _ => {}
        }
        let mut stream = pin!(watcher(Api::<Seen<W>>::all(self.client.clone()), config));
        loop {
            match stream.next().await {
                Some(Ok(event)) => {
                    if self.heard(event).await.is_none() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    if self.troubled(&error).await {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// `None` where nobody receives events any more.
    async fn heard<W: Wire>(&mut self, event: watcher::Event<Seen<W>>) -> Option<()> {
        let mut is_event = true;
        let event = match event {
            watcher::Event::Init => {
                is_event = false;
                Event::Begin(self.kind)
            }
            watcher::Event::InitDone => {
                is_event = false;
                self.standing.with_kind(self.kind, |standing| {
                    (standing.listed, standing.absent) = (true, false);
                    standing.lists += 1;
                });
                self.recovered();
                Event::End(self.kind)
            }
            watcher::Event::InitApply(seen) => match (seen.object(&self.node), seen.key()) {
                (Some(object), _) => Event::Listed(object),
                (None, Some(key)) => Event::Passed(self.kind, key),
                (None, None) => return Some(()),
            },
            watcher::Event::Apply(seen) => match (seen.object(&self.node), seen.key()) {
                (Some(object), _) => Event::Put(object),
                (None, Some(key)) => Event::Gone(self.kind, key),
                (None, None) => return Some(()),
            },
            watcher::Event::Delete(seen) => Event::Gone(self.kind, seen.key()?),
        };
        if is_event {
            self.standing.with_kind(self.kind, |standing| standing.events += 1);
            self.recovered();
        }
        self.events.send(event).await.ok()
    }

    fn recovered(&mut self) {
        self.pause = PAUSES.0;
    }

    /// Waits as long as it takes. `true` where only a new list helps.
    async fn troubled(&mut self, error: &watcher::Error) -> bool {
        let trouble = Trouble::of(error);
        let is_absent =
            !self.kind.is_essential() && matches!(trouble, Trouble::NotFound | Trouble::Forbidden);
        if is_absent {
            self.standing.with_kind(self.kind, |standing| (standing.absent, standing.trouble) = (true, None));
            if self.events.send(Event::Unknown(self.kind)).await.is_err() {
                return true;
            }
            sleep(ABSENT_PAUSE + by_chance(ABSENT_PAUSE)).await;
            return true;
        }
        self.standing.troubled(self.kind, trouble, error.to_string());
        tracing::debug!(kind = self.kind.name(), trouble = trouble.name(), "{error}");
        let pause = self.pause / 2 + by_chance(self.pause / 2);
        self.pause = (self.pause * 2).min(PAUSES.1);
        sleep(pause).await;
        // A watch that cannot begin where the last one ended never will.
        trouble == Trouble::Gone
    }
}
