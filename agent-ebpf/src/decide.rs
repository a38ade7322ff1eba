//! Every decision of the data path, as pure functions: values in, values out.

pub mod balance;
pub mod split;
