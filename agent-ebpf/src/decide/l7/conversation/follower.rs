//! What the programs do with a conversation, without sockets: for tests of the protocols.

use super::{Answered, Step, is_followed_whole, kept};
use crate::abi::conversation::{
    CARRY_BYTES, Conversation, Cursor, ROOM_BYTES, Room, SLACK_BYTES, WINDOW_BYTES,
};
use crate::abi::{AppProtocol, Unparsed};
use crate::decide::l7::{kafka, mysql, postgresql, redis};

/// What may lie behind the bytes that count.
const LEFT_OVER: [u8; 5] = [0xa5, b'\r', b'\n', b'7', b'E'];

/// A connection of one protocol, from its first byte on.
pub(crate) struct Follower {
    protocol: AppProtocol,
    conversation: Conversation,
    /// What was counted.
    pub(crate) answered: Vec<Answered>,
    /// Why something was not counted.
    pub(crate) missed: Vec<Unparsed>,
    /// Why it was given up.
    pub(crate) lost: Option<Unparsed>,
    /// The time, which passes from one segment to the next.
    pub(crate) now_ns: u64,
}

impl Follower {
    pub(crate) fn new(protocol: AppProtocol) -> Self {
        let (answered, missed, lost) = (Vec::new(), Vec::new(), None);
        Self { protocol, conversation: Conversation::NEW, answered, missed, lost, now_ns: 1_000 }
    }

    /// Operations and statuses that were counted.
    pub(crate) fn counted(&self) -> Vec<(u8, u16)> {
        self.answered.iter().map(|answered| (answered.operation, answered.status)).collect()
    }

    /// A side says this in one segment.
    pub(crate) fn says(&mut self, asks: bool, segment: &[u8]) {
        self.now_ns += 1_000;
        if self.lost.is_some() || segment.is_empty() {
            return;
        }
        let is_framed = is_followed_whole(self.protocol, asks);
        let is_postgresql = self.protocol == AppProtocol::Postgresql && !asks;
        if !is_postgresql || postgresql::listens(&self.conversation) {
            self.windows(asks, segment, is_framed);
        }
        if is_postgresql && self.lost.is_none() {
            for byte in &segment[segment.len().saturating_sub(8)..] {
                self.conversation.tail = self.conversation.tail << 8 | u64::from(*byte);
            }
            self.answered.extend(postgresql::segment_ends(&mut self.conversation, self.now_ns));
        }
    }

    fn windows(&mut self, asks: bool, segment: &[u8], is_framed: bool) {
        let mut rest = segment;
        let left_over = LEFT_OVER[self.answered.len() % LEFT_OVER.len()];
        loop {
            let cursor = self.cursor(asks);
            let skipped = rest.len().min(cursor.skip as usize);
            cursor.skip -= u32::try_from(skipped).unwrap();
            rest = &rest[skipped..];
            if rest.is_empty() {
                return;
            }
            let carried = cursor.carried as usize;
            // What lies behind the bytes that count is left over from other packets.
            let mut room = [left_over; ROOM_BYTES + SLACK_BYTES];
            room[..CARRY_BYTES].copy_from_slice(&cursor.carry.map(u64::to_ne_bytes).concat());
            cursor.carried = 0;
            let fresh = rest.len().min(WINDOW_BYTES);
            room[carried..carried + fresh].copy_from_slice(&rest[..fresh]);
            let Some(read) = self.walk(asks, &room, carried + fresh) else { return };
            if fresh < rest.len() && is_framed {
                assert!(read >= carried, "a window is more than any beginning of a message");
                rest = &rest[read - carried..];
                self.cursor(asks).carried = 0;
                continue;
            }
            if fresh < rest.len() {
                self.cursor(asks).skip = 0;
                return;
            }
            return self.keep(asks, &room, read, carried + fresh);
        }
    }

    /// Walks a room; gives how far.
    fn walk(&mut self, asks: bool, room: &Room, length: usize) -> Option<usize> {
        let mut at = 0;
        loop {
            match self.step(asks, room, at, length) {
                Step::More => return Some(at),
                Step::Take(bytes) => at += bytes as usize,
                Step::Missed(bytes, reason) => {
                    self.missed.push(reason);
                    at += bytes as usize;
                }
                Step::Answered(bytes, answered) => {
                    self.answered.push(answered);
                    at += bytes as usize;
                }
                Step::Lost(reason) => {
                    self.lost = Some(reason);
                    return None;
                }
            }
            if at >= length {
                self.cursor(asks).skip = u32::try_from(at - length).unwrap();
                return Some(length);
            }
        }
    }

    fn step(&mut self, asks: bool, room: &Room, at: usize, length: usize) -> Step {
        let (conversation, now_ns) = (&mut self.conversation, self.now_ns);
        let step = match (self.protocol, asks) {
            (AppProtocol::Redis, true) => redis::request,
            (AppProtocol::Redis, false) => redis::response,
            (AppProtocol::Kafka, true) => kafka::request,
            (AppProtocol::Kafka, false) => kafka::response,
            (AppProtocol::Postgresql, true) => postgresql::request,
            (AppProtocol::Postgresql, false) => postgresql::response,
            (AppProtocol::Mysql, true) => mysql::request,
            (AppProtocol::Mysql, false) => mysql::response,
            (other, _) => panic!("{other:?} is no protocol of conversations"),
        };
        step(conversation, room, at, length, now_ns)
    }

    fn keep(&mut self, asks: bool, room: &Room, at: usize, length: usize) {
        match kept(u32::try_from(at).unwrap(), u32::try_from(length).unwrap()) {
            Some(left) => {
                let mut carry = [0; CARRY_BYTES];
                carry.copy_from_slice(&room[at..at + CARRY_BYTES]);
                let cursor = self.cursor(asks);
                cursor.carried = left;
                for (word, bytes) in cursor.carry.iter_mut().zip(carry.chunks(8)) {
                    *word = u64::from_ne_bytes(bytes.try_into().unwrap());
                }
            }
            None => self.lost = Some(Unparsed::Malformed),
        }
    }

    fn cursor(&mut self, asks: bool) -> &mut Cursor {
        if asks { &mut self.conversation.asks } else { &mut self.conversation.answers }
    }

    /// A side says this in segments that end at these places.
    pub(crate) fn says_in_pieces(&mut self, asks: bool, message: &[u8], cuts: &[usize]) {
        let mut from = 0;
        for cut in cuts.iter().copied().filter(|cut| *cut < message.len()).chain([message.len()]) {
            if cut > from {
                self.says(asks, &message[from..cut]);
                from = cut;
            }
        }
    }
}
