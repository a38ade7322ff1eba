//! Reads a service's limits on connections into the record the kernel follows. Knows one service, and nothing of how
//! the limits are held.

use std::ops::RangeInclusive;

use agent_ebpf::abi::{Limits, ServiceLimits};

use super::problem::{Position, Quoted};
use super::reader::{Node, Reader, Stop, fields};
use super::service::one;
use super::value;

fields! {
    /// Whose connections are limited.
    enum LimitsField {
        Backend = "backend": "Connections to each backend. One that is at a limit is passed over for the next; where all are, the fallback gets the connection, or it is refused.",
        Service = "service": "Connections to the service. Beyond these the fallback gets them, or they are refused.",
        Client = "client": "Connections of each client (a pod or a unit) to the service. Beyond these they are refused, also where there is a fallback.",
    }
}

fields! {
    /// What is limited. At least one of the first three.
    enum LimitField {
        Connections = "connections": "Connections that are open or being opened at a time.",
        Pending = "pending": "Connections whose handshake is under way at a time. TCP only.",
        Rate = "rate": "New connections per second, as in `50/s`.",
        Burst = "burst": "New connections at once after a quiet time; without it 1: evenly spaced, one every `1/rate` seconds. Only with `rate`.",
    }
}

/// Connections at a time: far more than a node has ports for.
pub(super) const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;
/// New connections per second, and at once.
pub(super) const RATE: RangeInclusive<u32> = 1..=1_000_000;

/// Reads limits; all zero, with problems recorded, where there is no mapping.
pub(super) fn read<'a>(reader: &mut Reader<'a>, node: &Node<'a>) -> Result<ServiceLimits, Stop> {
    let mut limits = ServiceLimits::default();
    let wanted = "a mapping, as in { service: { connections: 1000 } }";
    reader.mapping(node, wanted, |reader, field, value| {
        let of = match field {
            LimitsField::Backend => &mut limits.backend,
            LimitsField::Service => &mut limits.service,
            LimitsField::Client => &mut limits.client,
        };
        *of = scope(reader, &value)?;
        Ok(())
    })?;
    Ok(limits)
}

fn scope<'a>(reader: &mut Reader<'a>, node: &Node<'a>) -> Result<Limits, Stop> {
    let mut limits = Limits::default();
    let mut burst_at: Option<Position> = None;
    let (mut has_limit, mut has_rate) = (false, false);
    let whole = "a whole number";
    let is_mapping = reader.mapping(
        node,
        "a mapping, as in { connections: 100, rate: 50/s }",
        |reader, field, value| {
            has_limit |= field != LimitField::Burst;
            match field {
                LimitField::Connections => {
                    let most = one(reader, value, whole, |text| value::number(text, &CONNECTIONS))?;
                    limits.max_connections = most.unwrap_or_default();
                }
                LimitField::Pending => {
                    let most = one(reader, value, whole, |text| value::number(text, &CONNECTIONS))?;
                    limits.max_pending = most.unwrap_or_default();
                }
                LimitField::Rate => {
                    has_rate = true;
                    let rate = one(reader, value, "a rate, as in 50/s", rate)?;
                    limits.rate_per_second = rate.unwrap_or_default();
                }
                LimitField::Burst => {
                    burst_at = Some(value.at);
                    let burst = one(reader, value, whole, |text| value::number(text, &RATE))?;
                    limits.rate_burst = burst.unwrap_or_default();
                }
            }
            Ok(())
        },
    )?;
    if is_mapping && !has_limit {
        reader.problem(node.at, "limits nothing; write connections, pending or rate, or remove it");
    } else if let Some(at) = burst_at.filter(|_| !has_rate) {
        let message = "means something only together with `rate`; write a rate, as in 50/s, or remove it";
        reader.problem(at, message);
    }
    Ok(limits)
}

/// New connections per second, `50/s`.
fn rate(text: &str) -> Result<u32, String> {
    let read = text.strip_suffix("/s").map(|digits| value::number(digits, &RATE));
    match read {
        Some(Ok(rate)) => Ok(rate),
        _ => Err(format!(
            "is {}; write a whole number of connections per second from {}/s to {}/s, as in 50/s",
            Quoted(text),
            RATE.start(),
            RATE.end()
        )),
    }
}
