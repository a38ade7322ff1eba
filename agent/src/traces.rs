//! Spans of single requests: one for each side of a connection that is managed, made of what the programs tell.
//!
//! Pure. Knows no receiver and no message of OTLP; the programs have chosen which requests are told, by their lots.

pub mod context;
mod heads;
pub mod span;
mod unnamed;

use jiff::Timestamp;

use crate::flows::{Names, Told};
use context::Beginning;
use heads::Heads;
pub use span::{Span, Value};
pub use unnamed::Unnamed;

/// What makes spans of what programs tell.
#[derive(Debug)]
pub struct Traces {
    /// Requests with lots below are wanted. Those of others are told where somebody follows.
    below: u64,
    with_paths: bool,
    heads: Heads,
}

/// What became of a request that was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Became {
    /// A span.
    Span {
        /// The span.
        span: Box<Span>,
        /// The beginning that such a request should have was there.
        is_whole: bool,
        /// Its workload may have a better name in a moment.
        is_provisional: bool,
    },
    /// Its application says that it does not record this trace.
    Declined,
    /// Nothing: it is none of those that are sampled, or is not answered yet.
    Nothing,
}

impl Traces {
    /// Spans of requests with lots below a limit, with their paths where that is wanted.
    pub fn new(below: u64, with_paths: bool) -> Self {
        Self { below, with_paths, heads: Heads::default() }
    }

    /// Takes in what a program told. `monotonic_zero` is the wall-clock time at which the monotonic clock read zero.
    pub fn told(&mut self, told: &Told<'_>, monotonic_zero: Timestamp, names: &mut dyn Names) -> Became {
        let answered = match told {
            Told::Head { cookie, sequence, bytes } => {
                self.heads.keep(*cookie, *sequence, Beginning::read(bytes, self.with_paths));
                return Became::Nothing;
            }
            Told::Answered(answered) => answered,
        };
        let event = &answered.event;
        let beginning = self.heads.take(event.cookie, event.place.sequence);
        if u64::from(event.lot) >= self.below {
            return Became::Nothing;
        }
        let is_whole = beginning.is_some() || !span::has_head(answered.protocol);
        let beginning = beginning.unwrap_or_default();
        match beginning.context {
            Some(context) if !context.sampled => Became::Declined,
            _ => {
                let client = names.client(event.cgroup);
                let is_provisional = client.is_provisional;
                let span = Span::of(answered, &beginning, client.workload, monotonic_zero, names);
                Became::Span { span: Box::new(span), is_whole, is_provisional }
            }
        }
    }
}

#[cfg(test)]
mod tests;
