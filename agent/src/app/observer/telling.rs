//! Single requests: switched on in the kernel while somebody follows them or spans are sent, and handed to both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_ebpf::decide::trace;
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};

use super::super::names::LiveNames;
use super::{FOLLOW_QUEUE, Observer, lock};
use crate::admin::view::TracesView;
use crate::clock;
use crate::flows::{Record, Told};
use crate::otlp::spans::{self, SpanQueue, SpanSender};
use crate::otlp::{self, Exports, Signal};
use crate::traces::{Became, Traces, Unnamed};

/// Seconds without anybody who wants requests, after which none are told any more: the programs are told once a second.
const OVER: u32 = 3;

/// How often the clocks are compared: the wall clock may be set.
const ZERO_AGE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Telling {
    followers: broadcast::Sender<Arc<Record>>,
    /// Somebody has come who follows.
    come: Notify,
    tracing: Option<Tracing>,
    /// The wall-clock time at which the monotonic clock read zero, and when that was asked. Both sides of a request go by the
    /// same, or one would begin before the other by the time between two looks.
    zero: Mutex<Option<(Duration, Timestamp)>>,
}

/// Spans of some requests.
struct Tracing {
    share: f64,
    traces: Mutex<Traces>,
    unnamed: Mutex<Unnamed>,
    sender: SpanSender,
    /// The other end, until somebody sends what is in it.
    queue: Mutex<Option<SpanQueue>>,
    exports: Arc<Exports>,
    declined: AtomicU64,
    headless: AtomicU64,
}

impl Telling {
    /// For followers, and for spans where the options want them.
    pub(super) fn new(options: Option<&otlp::Options>) -> Self {
        let tracing = options.and_then(|options| {
            let otlp::Tracing { share, with_paths } = options.traces?;
            let (sender, queue) = spans::queue();
            Some(Tracing {
                share,
                traces: Mutex::new(Traces::new(trace::lots_of(share), with_paths)),
                unnamed: Mutex::default(),
                sender,
                queue: Mutex::new(Some(queue)),
                exports: Arc::new(Exports::new(options, Signal::Traces, spans::GATHER)),
                declined: AtomicU64::new(0),
                headless: AtomicU64::new(0),
            })
        });
        Self {
            followers: broadcast::channel(FOLLOW_QUEUE).0,
            come: Notify::new(),
            tracing,
            zero: Mutex::default(),
        }
    }

    fn zero(&self, now: Duration) -> Timestamp {
        let mut zero = lock(&self.zero);
        match *zero {
            Some((at, zero)) if now.saturating_sub(at) < ZERO_AGE => zero,
            _ => zero.insert((now, clock::monotonic_zero())).1,
        }
    }

    /// Every request that is answered from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Arc<Record>> {
        let to_come = self.followers.subscribe();
        self.come.notify_one();
        to_come
    }

    /// Which requests are to be told, by their lots, and which of them with how they begin.
    pub(super) fn wanted(&self) -> (u64, u64) {
        let traced = self.tracing.as_ref().map_or(0, |tracing| trace::lots_of(tracing.share));
        let all = if self.followers.receiver_count() > 0 { trace::ALL_LOTS } else { traced };
        (all, traced)
    }

    /// How it stands with spans.
    pub(super) fn view(&self) -> Option<TracesView> {
        let tracing = self.tracing.as_ref()?;
        let counts = tracing.sender.counts();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(TracesView {
            share: tracing.share,
            sent: load(&counts.sent),
            rejected: load(&counts.rejected),
            queue_full: load(&counts.queue_full),
            declined: load(&tracing.declined),
            headless: load(&tracing.headless),
            sending: tracing.exports.view(),
        })
    }
}

impl Observer {
    /// Waits until somebody follows requests, or spans are made of them.
    pub(in crate::app) async fn requests_are_wanted(&self) {
        while self.telling.wanted().0 == 0 {
            self.telling.come.notified().await;
        }
    }

    /// Waits until nobody has wanted requests for a while, in which the programs heard of it and told their last.
    pub(in crate::app) async fn requests_are_over(&self) {
        let mut unwanted = 0;
        while unwanted < OVER {
            tokio::time::sleep(Duration::from_secs(1)).await;
            unwanted = if self.telling.wanted().0 == 0 { unwanted + 1 } else { 0 };
        }
    }

    /// What spans are sent from, and what came of it, for the one task that sends them; `None` where none are, or it runs.
    pub(in crate::app) fn spans(&self) -> Option<(SpanQueue, Arc<Exports>, Arc<str>)> {
        let tracing = self.telling.tracing.as_ref()?;
        let queue = lock(&tracing.queue).take()?;
        Some((queue, Arc::clone(&tracing.exports), Arc::clone(&self.facts.node)))
    }

    /// Decodes what a program told of a request, and hands it to those who want it.
    pub(in crate::app) fn hear(&self, bytes: &[u8]) {
        let told = match Told::decode(bytes) {
            Ok(told) => told,
            Err(error) => {
                self.records_lost.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("{error}");
                return;
            }
        };
        let now = clock::monotonic();
        let zero = self.telling.zero(now);
        let mut cgroups = lock(&self.cgroups);
        let mut names = LiveNames { cgroups: &mut cgroups, directory: &self.directory, now };
        if let Told::Answered(answered) = &told
            && self.telling.followers.receiver_count() > 0
        {
            let record = Record::of_request(answered, zero, &mut names);
            // Whoever left in this moment misses nothing.
            drop(self.telling.followers.send(Arc::new(record)));
        }
        let Some(tracing) = &self.telling.tracing else { return };
        match lock(&tracing.traces).told(&told, zero, &mut names) {
            Became::Span { span, is_whole, is_provisional } => {
                tracing.headless.fetch_add(u64::from(!is_whole), Ordering::Relaxed);
                let ready = match is_provisional {
                    true => lock(&tracing.unnamed).wait(now, *span),
                    false => Some(*span),
                };
                ready.into_iter().for_each(|span| tracing.sender.put(span));
            }
            Became::Declined => {
                tracing.declined.fetch_add(1, Ordering::Relaxed);
            }
            Became::Nothing => {}
        }
    }

    /// Sends spans whose workloads have a name by now.
    pub(in crate::app) fn name_spans(&self) {
        let Some(tracing) = &self.telling.tracing else { return };
        let now = clock::monotonic();
        let mut cgroups = lock(&self.cgroups);
        let mut names = LiveNames { cgroups: &mut cgroups, directory: &self.directory, now };
        lock(&tracing.unnamed).take(now, &mut names).into_iter().for_each(|span| tracing.sender.put(span));
    }
}
