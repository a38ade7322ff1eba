//! Sequences of socket calls: what there is to call and where it goes, at random. Knows nothing of who plays them and
//! what they should give.

use proptest::prelude::*;
use segue_tests::client::address;
use segue_tests::client::protocol::{Command, Family, Kind};

/// Where a sequence goes. All but the last three are services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Says its name and echoes.
    Echo,
    /// Nothing listens.
    Closed,
    /// Accepts and resets (TCP); nothing listens (UDP).
    Resets,
    /// Never answers.
    Silent,
    /// There is no route.
    Unrouted,
    /// No service: another server that echoes.
    ForeignEcho,
    /// No service: a closed port.
    ForeignClosed,
    /// No service: everybody, whom a socket may not address without asking for it first.
    Broadcast,
}

/// What is asked for, and what that is: the place, the services' addresses, the backends'.
pub(super) const SERVICES: [(Place, [&str; 2], [&str; 2]); 5] = [
    (Place::Echo, ["198.18.0.10:80", "[fd00:5e::10]:80"], ["127.0.0.1:8081", "[::1]:8081"]),
    (Place::Closed, ["198.18.0.11:80", "[fd00:5e::11]:80"], ["127.0.0.1:9", "[::1]:9"]),
    (Place::Resets, ["198.18.0.12:80", "[fd00:5e::12]:80"], ["127.0.0.1:8082", "[::1]:8082"]),
    (Place::Silent, ["198.18.0.13:80", "[fd00:5e::13]:80"], ["127.0.0.1:8089", "[::1]:8089"]),
    (Place::Unrouted, ["198.18.0.14:80", "[fd00:5e::14]:80"], ["203.0.113.1:80", "[2001:db8::1]:80"]),
];

/// The others, which are the same for both.
pub(super) const FOREIGN: [(Place, [&str; 2]); 3] = [
    (Place::ForeignEcho, ["127.0.0.1:8091", "[::1]:8091"]),
    (Place::ForeignClosed, ["127.0.0.1:8099", "[::1]:8099"]),
    (Place::Broadcast, ["255.255.255.255:80", "[ff0e::1]:80"]),
];

/// Who runs a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Seen by the programs; asks for services.
    Managed,
    /// Not seen; asks for their backends.
    Direct,
}

/// A place, by its IPv4 or IPv6 address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) is_v6: bool,
}

impl Target {
    pub(super) fn address(self, side: Side) -> &'static str {
        let which = usize::from(self.is_v6);
        let service = SERVICES.iter().find(|(place, ..)| *place == self.place);
        match (service, side) {
            (Some((_, frontends, _)), Side::Managed) => frontends[which],
            (Some((_, _, backends)), Side::Direct) => backends[which],
            (None, _) => {
                let (_, addresses) = FOREIGN.iter().find(|(place, _)| *place == self.place).expect("a place");
                addresses[which]
            }
        }
    }
}

/// A socket: one of three names, each of which may be free, or have been taken before.
pub(super) type Name = u8;

/// One call.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Open(Name, Family, Kind),
    Connect(Name, Target, Blocking),
    ConnectAs(Name, Target, Family, Blocking),
    Disconnect(Name),
    Bind(Name, bool),
    Send(Name),
    SendTo(Name, Target),
    FastOpen(Name, Target),
    Receive(Name, Peek),
    Peer(Name),
    Local(Name),
    Events(Name),
    TakeError(Name),
    Shutdown(Name, i32),
    SetUserTimeout(Name, i32),
    UserTimeout(Name),
    ResetOnClose(Name),
    Duplicate(Name, Name),
    Close(Name),
    InChild(Box<Step>),
    InReceiver(Box<Step>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocking {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peek {
    Yes,
    No,
}

impl Step {
    pub(super) fn socket(&self) -> Name {
        match self {
            Self::Open(socket, ..)
            | Self::Connect(socket, ..)
            | Self::ConnectAs(socket, ..)
            | Self::Disconnect(socket)
            | Self::Bind(socket, _)
            | Self::Send(socket)
            | Self::SendTo(socket, _)
            | Self::FastOpen(socket, _)
            | Self::Receive(socket, _)
            | Self::Peer(socket)
            | Self::Local(socket)
            | Self::Events(socket)
            | Self::TakeError(socket)
            | Self::Shutdown(socket, _)
            | Self::SetUserTimeout(socket, _)
            | Self::UserTimeout(socket)
            | Self::ResetOnClose(socket)
            | Self::Duplicate(socket, _)
            | Self::Close(socket) => *socket,
            Self::InChild(step) | Self::InReceiver(step) => step.socket(),
        }
    }

    pub(super) fn command(&self, side: Side) -> Command {
        let socket = name(self.socket());
        let at = |target: &Target| address(target.address(side));
        match self {
            Self::Open(_, family, kind) => Command::Open { socket, family: *family, kind: *kind },
            Self::Connect(_, target, blocking) => {
                Command::Connect { socket, to: at(target), nonblocking: *blocking == Blocking::No }
            }
            Self::ConnectAs(_, target, family, blocking) => {
                let nonblocking = *blocking == Blocking::No;
                Command::ConnectAs { socket, to: at(target), family: *family, nonblocking }
            }
            Self::Disconnect(_) => Command::Disconnect { socket },
            Self::Bind(_, is_v6) => {
                Command::Bind { socket, at: address(if *is_v6 { "[::1]:0" } else { "127.0.0.1:0" }) }
            }
            Self::Send(_) => Command::Send { socket, text: "ping".into() },
            Self::SendTo(_, target) => Command::SendTo { socket, text: "pong".into(), to: at(target) },
            Self::FastOpen(_, target) => Command::FastOpen { socket, text: "fast".into(), to: at(target) },
            Self::Receive(_, peek) => Command::ReceiveAll { socket, peek: *peek == Peek::Yes },
            Self::Peer(_) => Command::Peer { socket },
            Self::Local(_) => Command::Local { socket },
            Self::Events(_) => Command::Events { socket },
            Self::TakeError(_) => Command::TakeError { socket },
            Self::Shutdown(_, how) => Command::Shutdown { socket, how: *how },
            Self::SetUserTimeout(_, timeout_ms) => {
                Command::SetUserTimeout { socket, timeout_ms: *timeout_ms }
            }
            Self::UserTimeout(_) => Command::UserTimeout { socket },
            Self::ResetOnClose(_) => Command::ResetOnClose { socket },
            Self::Duplicate(_, copy) => Command::Duplicate { socket, copy: name(*copy) },
            Self::Close(_) => Command::Close { socket },
            Self::InChild(step) => Command::InChild { then: Box::new(step.command(side)) },
            Self::InReceiver(step) => Command::InReceiver { socket, then: Box::new(step.command(side)) },
        }
    }

    /// Whether something may come back.
    pub(super) fn acts(&self) -> bool {
        match self {
            Self::InChild(step) | Self::InReceiver(step) => step.acts(),
            _ => matches!(
                self,
                Self::Connect(..)
                    | Self::ConnectAs(..)
                    | Self::Disconnect(_)
                    | Self::Send(_)
                    | Self::SendTo(..)
                    | Self::FastOpen(..)
            ),
        }
    }
}

pub(super) fn name(socket: Name) -> String {
    format!("s{socket}")
}

pub(super) fn target() -> impl Strategy<Value = Target> {
    let place = prop_oneof![
        6 => Just(Place::Echo),
        2 => Just(Place::Closed),
        2 => Just(Place::Resets),
        2 => Just(Place::Silent),
        2 => Just(Place::Unrouted),
        2 => Just(Place::ForeignEcho),
        1 => Just(Place::ForeignClosed),
        1 => Just(Place::Broadcast),
    ];
    (place, prop::bool::weighted(0.4)).prop_map(|(place, is_v6)| Target { place, is_v6 })
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    // The first socket is used most, so that calls meet on it.
    let socket = || prop_oneof![4 => Just(0_u8), 2 => Just(1), 1 => Just(2)];
    let blocking = || prop_oneof![3 => Just(Blocking::Yes), 1 => Just(Blocking::No)];
    let peek = prop_oneof![3 => Just(Peek::No), 1 => Just(Peek::Yes)];
    let family = || prop_oneof![Just(Family::V4), Just(Family::V6)];
    let kind = prop_oneof![Just(Kind::Stream), Just(Kind::Datagram)];
    let call = prop_oneof![
        2 => (socket(), family(), kind).prop_map(|(socket, family, kind)| Step::Open(socket, family, kind)),
        10 => (socket(), target(), blocking()).prop_map(|(socket, to, how)| Step::Connect(socket, to, how)),
        2 => (socket(), target(), family(), blocking())
            .prop_map(|(socket, to, family, how)| Step::ConnectAs(socket, to, family, how)),
        2 => socket().prop_map(Step::Disconnect),
        1 => (socket(), any::<bool>()).prop_map(|(socket, is_v6)| Step::Bind(socket, is_v6)),
        4 => socket().prop_map(Step::Send),
        4 => (socket(), target()).prop_map(|(socket, to)| Step::SendTo(socket, to)),
        1 => (socket(), target()).prop_map(|(socket, to)| Step::FastOpen(socket, to)),
        5 => (socket(), peek).prop_map(|(socket, peek)| Step::Receive(socket, peek)),
        4 => socket().prop_map(Step::Peer),
        1 => socket().prop_map(Step::Local),
        1 => socket().prop_map(Step::Events),
        2 => socket().prop_map(Step::TakeError),
        2 => (socket(), 0..3).prop_map(|(socket, how)| Step::Shutdown(socket, how)),
        1 => (socket(), 1_000..9_000).prop_map(|(socket, ms)| Step::SetUserTimeout(socket, ms)),
        1 => socket().prop_map(Step::UserTimeout),
        1 => socket().prop_map(Step::ResetOnClose),
        1 => (socket(), socket()).prop_map(|(socket, copy)| Step::Duplicate(socket, copy)),
        2 => socket().prop_map(Step::Close),
    ];
    (call, 0_u8..12).prop_map(|(call, who)| match (who, &call) {
        (_, Step::Open(..) | Step::Close(_) | Step::Duplicate(..)) => call,
        // The least of them is the plain call, which shrinking tends to.
        (10, _) => Step::InChild(Box::new(call)),
        (11, _) => Step::InReceiver(Box::new(call)),
        _ => call,
    })
}

pub(super) fn sequence() -> impl Strategy<Value = Vec<Step>> {
    let family = || prop_oneof![Just(Family::V4), Just(Family::V6)];
    let kind = || prop_oneof![Just(Kind::Stream), Just(Kind::Datagram)];
    let open = ((family(), kind()), (family(), kind()))
        .prop_map(|(first, second)| vec![Step::Open(0, first.0, first.1), Step::Open(1, second.0, second.1)]);
    // Most calls are about nothing on a socket that goes nowhere.
    let first = prop::option::weighted(0.6, target());
    (open, first, prop::collection::vec(step(), 3..16)).prop_map(|(mut sequence, first, steps)| {
        sequence.extend(first.map(|to| Step::Connect(0, to, Blocking::Yes)));
        sequence.extend(steps);
        // What is left at the end is always looked at.
        sequence.extend([0, 1].map(Step::Peer));
        sequence.extend([0, 1].map(|socket| Step::Receive(socket, Peek::No)));
        sequence.extend([0, 1].map(Step::TakeError));
        sequence
    })
}

/// Sequences that once showed a difference, or are rare among random ones.
pub(super) fn known() -> Vec<Vec<Step>> {
    use Family::{V4, V6};
    use Kind::{Datagram, Stream};
    let at = |place, is_v6| Target { place, is_v6 };
    let (echo, unrouted) = (at(Place::Echo, false), at(Place::Unrouted, false));
    let again = |family, second: Step| {
        vec![
            Step::Open(0, family, Datagram),
            Step::Connect(0, echo, Blocking::Yes),
            second,
            Step::Peer(0),
            Step::Send(0),
            Step::Receive(0, Peek::No),
            Step::Peer(0),
        ]
    };
    vec![
        // A connect that fails leaves a datagram socket connected to where it was.
        again(V4, Step::Connect(0, unrouted, Blocking::Yes)),
        again(V6, Step::Connect(0, unrouted, Blocking::Yes)),
        again(V4, Step::Connect(0, at(Place::Broadcast, false), Blocking::Yes)),
        again(V4, Step::Connect(0, at(Place::Echo, true), Blocking::Yes)),
        again(V6, Step::ConnectAs(0, unrouted, V4, Blocking::Yes)),
        // The application's own limit, which a time limit of ours must not replace.
        vec![
            Step::Open(0, V4, Stream),
            Step::SetUserTimeout(0, 5_000),
            Step::Connect(0, echo, Blocking::Yes),
            Step::UserTimeout(0),
        ],
    ]
}
