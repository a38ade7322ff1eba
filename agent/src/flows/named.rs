//! The enums of the kernel boundary in JSON: by the names that labels, tables and configuration use.
//!
//! For `#[serde(with = "…")]`.

macro_rules! by_name {
    ($(#[$meta:meta])* $module:ident, $name:ident) => {
        $(#[$meta])*
        pub mod $module {
            use agent_ebpf::abi::$name;
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            /// Writes the name.
            ///
            /// # Errors
            /// What the serialiser refuses.
            pub fn serialize<S: Serializer>(value: &$name, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(value.name())
            }

            /// Reads the name.
            ///
            /// # Errors
            /// A name this build does not know.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let name = String::deserialize(deserializer)?;
                $name::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown name `{name}`")))
            }
        }
    };
}

by_name! {
    /// `http1`, ….
    app_protocol, AppProtocol
}
by_name! {
    /// `outbound`, `inbound`.
    direction, Direction
}
by_name! {
    /// `random`, `round_robin`, ….
    algorithm, Algorithm
}
by_name! {
    /// `ready`, `draining`, ….
    backend_status, BackendStatus
}
by_name! {
    /// `off`, `observe`, `enforce`, ….
    breaker_mode, BreakerMode
}
by_name! {
    /// `closed`, `open`, `half_open`.
    breaker_state, BreakerState
}
by_name! {
    /// `fin`, `rst_local`, ….
    close_reason, CloseReason
}
by_name! {
    /// `refused`, `timeout`, ….
    connect_failure, ConnectFailure
}
by_name! {
    /// `backend_connections`, `service_rate`, ….
    limit, Limit
}
by_name! {
    /// `consecutive_failures`, `probes_succeeded`, ….
    transition_reason, TransitionReason
}
by_name! {
    /// `selected`, `no_backend`, ….
    outcome, Outcome
}
by_name! {
    /// `tcp`, `udp`.
    protocol, Protocol
}
