//! Reads the fields of a record that a program wrote, one after the other. Never panics, whatever the bytes are.

use agent_ebpf::abi::{Address, Endpoint};

/// What is left to read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes; zeros past the end, which who reads rules out by the length.
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, tail)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = tail;
        *head
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_ne_bytes(self.bytes())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.bytes())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.bytes())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.bytes())
    }

    pub(super) fn endpoint(&mut self) -> Endpoint {
        let words_be = [self.u32(), self.u32(), self.u32(), self.u32()];
        Endpoint { address: Address { words_be }, port_be: self.u16(), _pad: self.u16() }
    }
}
