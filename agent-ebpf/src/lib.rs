//! What the kernel programs and the agent share: the layout of every map (`abi`) and every decision taken on
//! the data path (`decide`).
//!
//! This library knows nothing of sockets, clocks, randomness or maps: it gets values and gives values, so that
//! the same code that runs in the kernel is tested on any host.

#![cfg_attr(target_arch = "bpf", no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod decide;
