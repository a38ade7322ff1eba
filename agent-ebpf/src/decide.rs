//! Every decision of the data path, as pure functions: values in, values out.
//!
//! No map, no clock, no randomness and no panic path: the programs bring the draw and the time, act on the
//! answer and record it. The same functions are tested on the host against reference models.

pub mod affinity;
pub mod balance;
pub mod breaker;
pub mod census;
pub mod drain;
pub mod flow;
pub mod histogram;
pub mod l7;
pub mod limits;
pub mod locality;
pub mod ordinary;
pub mod split;
pub mod trace;
