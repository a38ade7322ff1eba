//! The circuit breaker's decisions: which backend gets connections, and what a connection's end changes.
//!
//! Each function takes a word of state and gives the word that should replace it; the program does the
//! compare-and-swap and, where another CPU was first, asks again with what it found. So any order in which CPUs
//! win their swaps is a valid order of events, and a word that comes back unchanged needs no swap.
//!
//! This module knows nothing of maps, sockets or how a signal was seen.

pub mod answer;
pub mod avoidance;
pub mod back_off;
pub mod cell;
pub mod change;
pub mod ejection;
pub mod policy;
pub mod signal;
pub mod slow_start;
pub mod window;

pub use cell::{Admission, Decision, Report};
pub use change::{Change, Transition};
pub use signal::{Signal, SignalSet};
pub use window::{Totals, Verdict};

#[cfg(not(target_arch = "bpf"))]
pub mod model;
#[cfg(test)]
mod tests;
