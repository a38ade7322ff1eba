//! The limits of a service and what is in use of them, as the admin API says it. Only values.

use agent_ebpf::abi::Limit;
use serde::{Deserialize, Serialize};

use crate::flows::named;

/// One limit of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// Which: `backend_connections`, `service_rate` and the like.
    #[serde(with = "named::limit")]
    pub limit: Limit,
    /// How much is allowed: connections, or connections per second.
    pub most: u32,
    /// How much is in use: of a backend's or client's limit, by the one that uses most. Null for a rate.
    pub used: Option<u64>,
    /// Times it was reached: of a backend's, times one was passed over; else connections the service did not take.
    pub reached: u64,
}

impl LimitView {
    /// Nothing is left of it.
    pub fn is_used_up(&self) -> bool {
        self.used.is_some_and(|used| used >= u64::from(self.most))
    }

    /// As in `service_connections 7 of 10` or `service_rate 50/s`.
    pub fn sentence(&self) -> String {
        let (name, most) = (self.limit.name(), self.most);
        match self.used {
            Some(used) => format!("{name} {used} of {most}"),
            None => format!("{name} {most}/s"),
        }
    }
}
