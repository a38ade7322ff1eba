//! The command line: what a person types and reads.

pub mod client;
pub mod flows;
pub mod services;
pub mod status;
pub mod table;
