//! The programs of the object, the hooks they sit on, and the order in which they come and go.

use agent_ebpf::abi::Hook;

/// A hook as the loader needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub(super) hook: Hook,
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

impl Attachment {
    /// Whether the data plane is whole without it: it only observes, may be switched off, and a kernel that refuses it
    /// gets the others.
    pub(super) const fn is_optional(&self) -> bool {
        matches!(self.hook, Hook::Ingress | Hook::Egress)
    }
}

/// Everything that is attached to the cgroup, in the order of attaching. What observes and restores comes before
/// what translates, so that no connection is translated whose end or whose peer's name would be missed.
/// Unloading goes the other way round.
pub(super) const ATTACHMENTS: [Attachment; 12] = [
    Attachment { hook: Hook::SockOps, program: "segue_tcp_events", attach_type: 3 },
    Attachment { hook: Hook::SockRelease, program: "segue_sock_release", attach_type: 34 },
    Attachment { hook: Hook::Ingress, program: "segue_ingress", attach_type: 0 },
    Attachment { hook: Hook::Egress, program: "segue_egress", attach_type: 1 },
    Attachment { hook: Hook::Getpeername4, program: "segue_getpeername4", attach_type: 29 },
    Attachment { hook: Hook::Getpeername6, program: "segue_getpeername6", attach_type: 30 },
    Attachment { hook: Hook::Recvmsg4, program: "segue_recvmsg4", attach_type: 19 },
    Attachment { hook: Hook::Recvmsg6, program: "segue_recvmsg6", attach_type: 20 },
    Attachment { hook: Hook::Sendmsg4, program: "segue_sendmsg4", attach_type: 14 },
    Attachment { hook: Hook::Sendmsg6, program: "segue_sendmsg6", attach_type: 15 },
    Attachment { hook: Hook::Connect4, program: "segue_connect4", attach_type: 10 },
    Attachment { hook: Hook::Connect6, program: "segue_connect6", attach_type: 11 },
];

/// The walks over sockets; read, not attached.
pub(super) const SAMPLE_PROGRAM: &str = "segue_sample";
pub(super) const DRAIN_PROGRAM: &str = "segue_drain";

/// Every map of the object that is pinned.
pub(super) const MAPS: [&str; 31] = [
    "FRONTENDS",
    "SERVICES",
    "POLICIES",
    "SLOTS",
    "BACKENDS",
    "BACKEND_STATE",
    "SERVICE_STATE",
    "AFFINITY",
    "AVOIDANCES",
    "CLIENTS",
    "WORKLOADS",
    "EDGES",
    "OUTCOMES",
    "LOSSES",
    "EVENTS",
    "REQUEST_EVENTS",
    "SETTINGS",
    "CONNECTIONS",
    "DATAGRAMS",
    "EXCHANGES",
    "REQUESTS",
    "UNPARSED",
    "SCRATCH",
    "LOOKUPS",
    "SERVED_LOOKUPS",
    "LOOKUP_STREAMS",
    "LOOKUP_ROOM",
    "HTTP2",
    "WALKERS",
    "CONVERSATIONS",
    "DESK",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_of_a_cgroup_is_attached_once() {
        // Walks are read, and probes put in place by `tls`.
        let elsewhere = [Hook::Sample, Hook::Drain, Hook::TlsCall, Hook::TlsReceive];
        for &hook in Hook::ALL {
            let count = ATTACHMENTS.iter().filter(|attachment| attachment.hook == hook).count();
            assert_eq!(count, usize::from(!elsewhere.contains(&hook)), "{}", hook.name());
        }
    }

    #[test]
    fn translation_is_attached_last() {
        let place = |hook| ATTACHMENTS.iter().position(|attachment| attachment.hook == hook).unwrap();
        for observer in [Hook::SockOps, Hook::SockRelease, Hook::Getpeername4, Hook::Recvmsg6] {
            for translator in [Hook::Connect4, Hook::Connect6, Hook::Sendmsg4, Hook::Sendmsg6] {
                assert!(place(observer) < place(translator));
            }
        }
    }
}
