//! Redis: RESP2 and RESP3, and inline commands.
//!
//! Both sides are walked part by part, as RESP says how long each part is, so that a pipeline is counted command by command.
//! What makes a connection something else (subscriptions of RESP2, `MONITOR`, replication, `CLIENT REPLY`) ends the
//! following of it.

#![allow(
    clippy::cast_possible_truncation,
    reason = "places in a room and lengths of its parts are less than 4 KiB"
)]

use super::Head;
use super::conversation::{
    Begin, KNOWN, Step, answer, ask_in_order, before_first, byte, count_letters, eight, eightfold, letters,
    refused, word,
};
use crate::abi::Unparsed;
use crate::abi::conversation::{Conversation, Room};
use crate::abi::redis::{RedisCommand, RedisStatus};
use crate::abi::request::HEAD_BYTES;

// What a client says next. 0: a command.
const NAME: u32 = 1;
const ARGUMENTS: u32 = 2;
/// The first argument of `CLIENT`.
const CLIENT: u32 = 3;
// What either side says next.
/// The rest of a line.
const LINE: u32 = 4;

/// Parts of a command or of one aggregate. Redis itself takes 1 Mi parts of a command by default.
const MAX_PARTS: u32 = 1 << 24;
/// A string of Redis has 512 MiB at most.
const MAX_STRING: u32 = 512 << 20;
/// The longest name of a command that matters, `PSUBSCRIBE`, with room.
const NAME_BYTES: u32 = 12;

/// Whether a client that says this speaks Redis. An inline command is only taken for one where it is `PING` alone: other
/// protocols have lines of words too.
#[inline(always)]
pub const fn begins(head: &Head, length: usize) -> Begin {
    const PING: u64 = u64::from_le_bytes(*b"PING\r\n\0\0");
    const CAPITALS: u64 = !u64::from_le_bytes([0x20, 0x20, 0x20, 0x20, 0, 0, 0, 0]);
    let first = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], 0, 0]) & CAPITALS;
    if length >= 6 && first == PING {
        return Begin::Yes;
    }
    if length < 6 && first == PING & !(u64::MAX << (8 * length)) {
        return Begin::More;
    }
    if head[0] != b'*' {
        return Begin::No;
    }
    // A number without leading zeros, the end of the line, and the mark of a string with its length.
    let mut at = 1;
    while at < 9 {
        if at >= length {
            return Begin::More;
        }
        // The mask is for the verifier.
        match head[at & (2 * HEAD_BYTES - 1)] {
            b'1'..=b'9' => {}
            b'0' if at > 1 => {}
            b'\r' if at > 1 => return begins_with_string(head, length, at),
            _ => return Begin::No,
        }
        at += 1;
    }
    Begin::No
}

#[inline(always)]
const fn begins_with_string(head: &Head, length: usize, at: usize) -> Begin {
    if at + 4 > length {
        return Begin::More;
    }
    const MASK: usize = 2 * HEAD_BYTES - 1;
    let (line, mark, digit) = (head[(at + 1) & MASK], head[(at + 2) & MASK], head[(at + 3) & MASK]);
    if line == b'\n' && mark == b'$' && matches!(digit, b'1'..=b'9') { Begin::Yes } else { Begin::No }
}

/// The number behind the mark at the beginning of a part.
enum Header {
    /// Not there as a whole yet.
    More,
    /// None.
    Bad,
    /// The number (`None`: the null of RESP2), and the bytes up to the end of its line.
    Of(Option<u32>, u32),
}

#[inline(always)]
const fn header(room: &Room, at: usize, length: usize) -> Header {
    let is_null = byte(room, at + 1) == b'-';
    let begin = if is_null { at + 2 } else { at + 1 };
    let digits = eight(room, begin);
    // In each byte: the end of the line.
    let ends = digits ^ eightfold(b'\r');
    let before = before_first(ends.wrapping_sub(eightfold(1)) & !ends);
    // Eight digits are a string of ten megabytes; of a ninth there are few.
    let (has_ninth, count) = match before {
        u64::MAX => match byte(room, begin + 8) {
            b'\r' => (false, 8),
            _ => (true, 9),
        },
        _ => (false, (before & eightfold(1)).count_ones() as usize),
    };
    if begin + count + 2 > length {
        return Header::More;
    }
    let (eight, is_number) = number(digits, if has_ninth { 8 } else { count });
    let ninth = byte(room, begin + 8);
    let value = if has_ninth { eight * 10 + (ninth as u32 & 0xf) } else { eight };
    let ends = byte(room, begin + count) == b'\r' && byte(room, begin + count + 1) == b'\n';
    if !is_number || !ends || has_ninth && !ninth.is_ascii_digit() {
        return Header::Bad;
    }
    Header::Of(if is_null { None } else { Some(value) }, (begin + count + 2 - at) as u32)
}

/// The number that the first `count` digits of a word are, 1 to 8 of them, the first lowest; and whether they are digits.
#[inline(always)]
const fn number(digits: u64, count: usize) -> (u32, bool) {
    // As if zeros stood before it.
    let zeros = eightfold(b'0');
    let shift = 64_u32.wrapping_sub(8 * count as u32) & 63;
    let all = if count == 0 { zeros } else { digits << shift | zeros & !(u64::MAX << shift) };
    let values = all ^ zeros;
    let is_number = (values.wrapping_add(eightfold(0x76)) | values) & eightfold(0x80) == 0 && count > 0;
    // Pairs of digits, then of pairs, then of these.
    let values = values & eightfold(0xf);
    let pairs = (values * 10 + (values >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    let eight = (fours & 0xffff) * 10_000 + (fours >> 32);
    (eight as u32, is_number)
}

/// What a client says.
#[inline(always)]
pub const fn request(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    length: usize,
    now_ns: u64,
) -> Step {
    if at >= length {
        return Step::More;
    }
    match conversation.asks.state {
        NAME => name(conversation, room, at, length, now_ns),
        ARGUMENTS | CLIENT => argument(conversation, room, at, length),
        LINE => match line(room, at, length) {
            (bytes, true) => {
                conversation.asks.state = 0;
                Step::Take(bytes)
            }
            (bytes, false) => Step::Take(bytes),
        },
        _ if byte(room, at) == b'*' => match header(room, at, length) {
            Header::More => Step::More,
            Header::Of(Some(parts), bytes) if parts <= MAX_PARTS => {
                if parts > 0 {
                    conversation.asks.left = parts;
                    conversation.asks.state = NAME;
                }
                Step::Take(bytes)
            }
            _ => refused(conversation),
        },
        _ => inline(conversation, room, at, length, now_ns),
    }
}

/// A command in a line of its own, as people type them.
#[inline(always)]
const fn inline(conversation: &mut Conversation, room: &Room, at: usize, length: usize, now_ns: u64) -> Step {
    let first = byte(room, at);
    if first == b'\r' || first == b'\n' {
        // An empty line is no command.
        return Step::Take(1);
    }
    if !first.is_ascii_alphabetic() {
        return refused(conversation);
    }
    let begin = count_letters(room, at, length);
    let named = if begin == 8 { 8 + count_letters(room, at + 8, length) } else { begin };
    if at + named >= length {
        return Step::More;
    }
    conversation.asks.state = LINE;
    command(conversation, room, at, named, now_ns, named as u32)
}

/// The name of a command.
#[inline(always)]
const fn name(conversation: &mut Conversation, room: &Room, at: usize, length: usize, now_ns: u64) -> Step {
    if byte(room, at) != b'$' {
        return refused(conversation);
    }
    let (named, bytes) = match header(room, at, length) {
        Header::More => return Step::More,
        Header::Of(Some(named), bytes) if named <= MAX_STRING => (named, bytes),
        _ => return refused(conversation),
    };
    let seen = if named > NAME_BYTES { 0 } else { named };
    if at + (bytes + seen) as usize > length {
        return Step::More;
    }
    conversation.asks.left = conversation.asks.left.wrapping_sub(1);
    conversation.asks.state = if conversation.asks.left == 0 { 0 } else { ARGUMENTS };
    let take = bytes + named + 2;
    command(conversation, room, at + bytes as usize, seen as usize, now_ns, take)
}

/// A command whose name has these letters.
#[inline(always)]
const fn command(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    named: usize,
    now_ns: u64,
    take: u32,
) -> Step {
    let first = letters(room, at, at + named);
    if named == 6 && first == const { word(b"CLIENT") } && conversation.asks.state == ARGUMENTS {
        conversation.asks.state = CLIENT;
    }
    if is_another_protocol(room, at, named, first) {
        return Step::Lost(Unparsed::Upgraded);
    }
    if ask_in_order(conversation, known(named, first) as u8, now_ns) {
        Step::Take(take)
    } else {
        Step::Lost(Unparsed::Pipelined)
    }
}

/// Whether the connection becomes something else: what the server says from now on is no answer to what it is asked.
#[inline(always)]
const fn is_another_protocol(room: &Room, at: usize, named: usize, first: u64) -> bool {
    let last = byte(room, at.wrapping_add(named).wrapping_sub(1)) & !0x20;
    let is_other_kind = first == const { word(b"PSUBSCRI") } || first == const { word(b"SSUBSCRI") };
    let subscribes =
        last == b'E' && (named == 9 && first == const { word(b"SUBSCRIB") } || named == 10 && is_other_kind);
    subscribes
        || named == 7 && first == const { word(b"MONITOR") }
        || named == 5 && first == const { word(b"PSYNC") }
        || named == 4 && first == const { word(b"SYNC") }
}

/// The command of this name of so many letters.
#[inline(always)]
const fn known(named: usize, first: u64) -> RedisCommand {
    if named > 8 {
        return RedisCommand::Other;
    }
    macro_rules! known {
        ($($text:literal => $command:ident),+ $(,)?) => {
            $(
                if first == const { word($text) } {
                    return RedisCommand::$command;
                }
            )+
        };
    }
    known!(
        b"GET" => Get, b"SET" => Set, b"DEL" => Del, b"MGET" => Mget, b"MSET" => Mset, b"INCR" => Incr,
        b"DECR" => Decr, b"EXISTS" => Exists, b"EXPIRE" => Expire, b"TTL" => Ttl, b"SETEX" => Setex,
        b"HGET" => Hget, b"HSET" => Hset, b"HDEL" => Hdel, b"HMGET" => Hmget, b"HGETALL" => Hgetall,
        b"LPUSH" => Lpush, b"RPUSH" => Rpush, b"LPOP" => Lpop, b"RPOP" => Rpop, b"LRANGE" => Lrange,
        b"SADD" => Sadd, b"SREM" => Srem, b"SPOP" => Spop, b"SMEMBERS" => Smembers, b"ZADD" => Zadd,
        b"ZREM" => Zrem, b"ZRANGE" => Zrange, b"ZPOPMIN" => Zpopmin, b"EVAL" => Eval,
        b"EVALSHA" => Evalsha, b"PUBLISH" => Publish, b"MULTI" => Multi, b"EXEC" => Exec, b"PING" => Ping,
        b"SCAN" => Scan, b"XADD" => Xadd, b"BLPOP" => Blpop, b"BRPOP" => Brpop, b"XREAD" => Xread,
    );
    RedisCommand::Other
}

/// An argument of a command, which is passed over.
#[inline(always)]
const fn argument(conversation: &mut Conversation, room: &Room, at: usize, length: usize) -> Step {
    if byte(room, at) != b'$' {
        return refused(conversation);
    }
    let (string, bytes) = match header(room, at, length) {
        Header::More => return Step::More,
        Header::Of(Some(string), bytes) if string <= MAX_STRING => (string, bytes),
        _ => return refused(conversation),
    };
    if conversation.asks.state == CLIENT && string == 5 {
        if at + bytes as usize + 5 > length {
            return Step::More;
        }
        // Some of what follows will have no answer, and which is not said.
        if letters(room, at + bytes as usize, length) == const { word(b"REPLY") } {
            return Step::Lost(Unparsed::Upgraded);
        }
    }
    conversation.asks.left = conversation.asks.left.wrapping_sub(1);
    conversation.asks.state = if conversation.asks.left == 0 { 0 } else { ARGUMENTS };
    Step::Take(bytes + string + 2)
}

/// Bytes of a line up to its end, or as many of them as a step looks through; whether its end is among them.
#[inline(always)]
const fn line(room: &Room, at: usize, length: usize) -> (u32, bool) {
    let ends = eight(room, at) ^ eightfold(b'\n');
    let before = before_first(ends.wrapping_sub(eightfold(1)) & !ends);
    let count = if before == u64::MAX { 8 } else { (before & eightfold(1)).count_ones() as usize };
    let there = length.saturating_sub(at);
    if count < 8 && count < there {
        (count as u32 + 1, true)
    } else if there < 8 {
        (there as u32, false)
    } else {
        (8, false)
    }
}

/// What a server says.
#[inline(always)]
pub const fn response(
    conversation: &mut Conversation,
    room: &Room,
    at: usize,
    length: usize,
    now_ns: u64,
) -> Step {
    if at >= length {
        return Step::More;
    }
    if conversation.answers.state == LINE {
        let (bytes, ends) = line(room, at, length);
        if ends {
            conversation.answers.state = 0;
            conversation.answers.left = conversation.answers.left.wrapping_sub(1);
        }
        return Step::Take(bytes);
    }
    let mark = byte(room, at);
    let is_first = conversation.answers.left == 0;
    let status = match mark {
        b'-' if is_first => match error(room, at + 1, length) {
            Some(status) => status,
            None => return Step::More,
        },
        b'!' => RedisStatus::Other,
        _ => RedisStatus::Ok,
    };
    let left = if is_first { 1 } else { conversation.answers.left };
    let take = match part(conversation, room, at, length, left) {
        Step::Take(take) => take,
        other => return other,
    };
    // Pushes (RESP3) answer nothing, and attributes stand before what does.
    if !is_first || mark == b'>' || mark == b'|' {
        return Step::Take(take);
    }
    match answer(conversation, status as u16, now_ns) {
        Some(answered) => {
            conversation.answers.marks |= KNOWN;
            Step::Answered(take, answered)
        }
        None => refused(conversation),
    }
}

/// A part of an answer: how many bytes it takes, and how many parts are left behind it.
#[inline(always)]
const fn part(conversation: &mut Conversation, room: &Room, at: usize, length: usize, left: u32) -> Step {
    let mark = byte(room, at);
    match mark {
        b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_' => {
            conversation.answers.left = left;
            conversation.answers.state = LINE;
            return Step::Take(1);
        }
        b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {}
        _ => return refused(conversation),
    }
    let (number, bytes) = match header(room, at, length) {
        Header::More => return Step::More,
        Header::Of(number, bytes) => (number, bytes),
        Header::Bad => return refused(conversation),
    };
    let others = left.wrapping_sub(1);
    match (mark, number) {
        (_, None) => {
            conversation.answers.left = others;
            Step::Take(bytes)
        }
        (b'$' | b'=' | b'!', Some(string)) if string <= MAX_STRING => {
            conversation.answers.left = others;
            Step::Take(bytes + string + 2)
        }
        (b'*' | b'~' | b'>' | b'%' | b'|', Some(parts)) if parts <= MAX_PARTS && others <= MAX_STRING => {
            let parts = if mark == b'%' || mark == b'|' { 2 * parts } else { parts };
            conversation.answers.left = others + parts;
            Step::Take(bytes)
        }
        _ => refused(conversation),
    }
}

/// The first word of an error. `None` where it is not there as a whole.
#[inline(always)]
const fn error(room: &Room, at: usize, length: usize) -> Option<RedisStatus> {
    let first = letters(room, at, length);
    // Eight letters are enough, and of fewer what follows them must be there.
    if first >> 56 == 0 && at + count_letters(room, at, length) >= length {
        return None;
    }
    macro_rules! known {
        ($($text:literal => $status:ident),+ $(,)?) => {
            $(
                if first == const { word($text) } {
                    return Some(RedisStatus::$status);
                }
            )+
        };
    }
    known!(
        b"ERR" => Err, b"WRONGTYP" => Wrongtype, b"MOVED" => Moved, b"ASK" => Ask, b"LOADING" => Loading,
        b"READONLY" => Readonly, b"BUSY" => Busy, b"NOAUTH" => Noauth, b"NOPERM" => Noperm, b"OOM" => Oom,
        b"MISCONF" => Misconf, b"CLUSTERD" => Clusterdown, b"MASTERDO" => Masterdown,
        b"TRYAGAIN" => Tryagain, b"NOSCRIPT" => Noscript, b"EXECABOR" => Execabort,
        b"WRONGPAS" => Wrongpass,
    );
    Some(RedisStatus::Other)
}

#[cfg(test)]
mod tests;
