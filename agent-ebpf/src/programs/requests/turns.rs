//! Two sides that take turns, as those of HTTP/1 do: a request, then its answer. Follows how the exchange goes on. Knows neither where
//! what they say comes from, in packets or in an application's memory, nor what is learnt from it: a [`Listener`] does.

use agent_ebpf::abi::request::{MAX_DOUBTS, UNDERSTOOD};
use agent_ebpf::abi::{AppProtocol, Exchange, Outcome, Stage, Unparsed};
use agent_ebpf::decide::l7::{Heard, Told};

use super::words::{REQUEST, fill, head_end, hear, is_followed_by_another, more};
use crate::context::Text;
use crate::maps;

/// Interim answers (1xx) that are passed over in one text.
const MAX_INTERIMS: u32 = 2;

/// What a side said: so many bytes of a text, from `at` on.
#[derive(Clone, Copy)]
pub(in crate::programs) struct Said<'t, T> {
    pub(in crate::programs) text: &'t T,
    pub(in crate::programs) at: u32,
    pub(in crate::programs) bytes: u32,
    /// The number of the scratch in which it is read.
    pub(in crate::programs) scratch: u32,
}

/// Who wants to know, and acts on it.
pub(in crate::programs) trait Listener {
    /// A request begins.
    fn begin(&self, exchange: &mut Exchange);

    /// Takes the exchange where its sides do not take turns in what they speak.
    fn take(&mut self, exchange: &mut Exchange, protocol: AppProtocol) -> Option<Outcome>;

    /// A request was understood. `begins`: its first words are the first that were said.
    fn asked<T>(&mut self, exchange: &mut Exchange, said: &Said<'_, T>, begins: bool) -> Outcome;

    /// Whether the head of so many bytes in a scratch is none, but that of something encrypted.
    fn is_sealed(&self, exchange: &mut Exchange, scratch: u32, length: u32) -> bool;

    /// Whether a client says in the midst of something what only those do whose sides do not take turns.
    fn recognises<T>(&self, exchange: &mut Exchange, said: &Said<'_, T>) -> bool;

    /// A request was answered.
    fn answered(&mut self, exchange: &mut Exchange, status: u16);

    /// Nothing more can be learnt, for this reason.
    fn lose(&mut self, exchange: &mut Exchange, reason: Unparsed) -> Outcome;
}

/// The client said something.
#[inline(always)]
pub(in crate::programs) fn asked<T: Text>(
    listener: &mut impl Listener,
    exchange: &mut Exchange,
    said: Said<'_, T>,
) -> Outcome {
    let begins = exchange.head_length == 0;
    let length = fill(said.text, exchange, said.scratch, said.at, said.bytes);
    let Told { protocol, heard } = hear(REQUEST, exchange, said.scratch, length);
    if begins && matches!(heard, Heard::Request(_) | Heard::More) {
        listener.begin(exchange);
    }
    match heard {
        Heard::More => more(exchange, said.scratch, length),
        Heard::Request(operation) => {
            if let Some(outcome) = listener.take(exchange, protocol) {
                return outcome;
            }
            exchange.head_length = 0;
            exchange.protocol = protocol as u8;
            exchange.operation = operation;
            exchange.stage = Stage::Asked as u8;
            if begins && said.bytes != u32::from(exchange.single_bytes) {
                if is_followed_by_another(said.text, said.scratch, said.at, said.bytes, operation) {
                    return listener.lose(exchange, Unparsed::Pipelined);
                }
                exchange.single_bytes = if said.bytes > u32::from(u16::MAX) { 0 } else { said.bytes as u16 };
            }
            listener.asked(exchange, &said, begins)
        }
        Heard::Lost(_) if listener.is_sealed(exchange, said.scratch, length) => Outcome::Ignored,
        Heard::Lost(reason) => listener.lose(exchange, reason),
        _ => {
            exchange.head_length = 0;
            if exchange.marks & UNDERSTOOD == 0 && exchange.stage == Stage::Idle as u8 {
                exchange.doubts += 1;
                if !listener.recognises(exchange, &said) && exchange.doubts > MAX_DOUBTS {
                    return listener.lose(exchange, Unparsed::OtherProtocol);
                }
            }
            Outcome::Ignored
        }
    }
}

/// The server said something. An interim answer (1xx) may have the one that counts behind it.
#[inline(always)]
pub(in crate::programs) fn answered<T: Text>(
    listener: &mut impl Listener,
    exchange: &mut Exchange,
    said: Said<'_, T>,
) -> Outcome {
    let (mut at, mut bytes) = (said.at, said.bytes);
    let mut turn = 0;
    while turn <= MAX_INTERIMS {
        let length = fill(said.text, exchange, said.scratch, at, bytes);
        let Told { protocol, heard } = hear(0, exchange, said.scratch, length);
        if let Some(outcome) = listener.take(exchange, protocol) {
            return outcome;
        }
        match heard {
            Heard::More => return more(exchange, said.scratch, length),
            Heard::Interim => {
                exchange.head_length = 0;
                exchange.stage = Stage::Interim as u8;
                let end = head_end(said.text, said.scratch, at, bytes);
                if end == 0 || end >= bytes {
                    return Outcome::Ignored;
                }
                at += end;
                bytes -= end;
            }
            Heard::Answer(status) => {
                exchange.head_length = 0;
                exchange.stage = Stage::Answered as u8;
                listener.answered(exchange, status);
                return Outcome::Answered;
            }
            Heard::LastAnswer(status) => {
                exchange.stage = Stage::Ended as u8;
                maps::unparsed(Unparsed::Upgraded);
                listener.answered(exchange, status);
                return Outcome::Answered;
            }
            Heard::Lost(reason) => return listener.lose(exchange, reason),
            _ => {
                exchange.head_length = 0;
                return Outcome::Ignored;
            }
        }
        turn += 1;
    }
    Outcome::Ignored
}
