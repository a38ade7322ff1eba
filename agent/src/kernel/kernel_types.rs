//! Where the running kernel keeps a field, read from its own type information (BTF,
//! Documentation/bpf/btf.rst). Knows only as much of the format as finding a member by name takes.

use agent_ebpf::abi::SocketOffsets;

/// Offsets of what the walk reads of a `struct tcp_sock`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSockOffsets {
    /// `bytes_acked`
    pub bytes_acked: u32,
    /// `bytes_received`
    pub bytes_received: u32,
    /// `srtt_us`
    pub srtt: u32,
    /// `total_retrans`
    pub retransmits: u32,
    /// `skc_state`, of the `struct sock_common` it starts with
    pub state: u32,
    /// `sk_err`, of the `struct sock` it starts with
    pub error: u32,
}

/// What is known of the running kernel; nothing where it was built without BTF.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KernelTypes {
    pub(super) tcp_sock: Option<TcpSockOffsets>,
    pub(super) socket: Option<SocketOffsets>,
}

/// Reads what the running kernel says of itself.
pub(super) fn of_this_kernel() -> KernelTypes {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let types = Types::parse(&btf);
    KernelTypes {
        tcp_sock: types.as_ref().and_then(TcpSockOffsets::find),
        socket: types.as_ref().and_then(socket_offsets),
    }
}

/// Where a `struct sock` keeps what names it. A kernel without IPv6 has no sockets that have such addresses.
fn socket_offsets(types: &Types<'_>) -> Option<SocketOffsets> {
    let common = types.structure("sock_common")?;
    let field = |name| types.member_offset(common, name, 0);
    let net = types.member_offset(types.structure("net")?, "ns", 0)?;
    let inode = types.member_offset(types.structure("ns_common")?, "inum", 0)?;
    Some(SocketOffsets {
        family: field("skc_family")?,
        remote_v4: field("skc_daddr")?,
        local_v4: field("skc_rcv_saddr")?,
        remote_v6: field("skc_v6_daddr").unwrap_or_default(),
        local_v6: field("skc_v6_rcv_saddr").unwrap_or_default(),
        remote_port: field("skc_dport")?,
        local_port: field("skc_num")?,
        interface: field("skc_bound_dev_if")?,
        cookie: field("skc_cookie")?,
        net: field("skc_net")?,
        net_inode: net + inode,
    })
}

impl TcpSockOffsets {
    fn find(types: &Types<'_>) -> Option<Self> {
        let tcp_sock = types.structure("tcp_sock")?;
        let field = |name| types.member_offset(tcp_sock, name, 0);
        Some(Self {
            bytes_acked: field("bytes_acked")?,
            bytes_received: field("bytes_received")?,
            srtt: field("srtt_us")?,
            retransmits: field("total_retrans")?,
            state: types.member_offset(types.structure("sock_common")?, "skc_state", 0)?,
            error: types.member_offset(types.structure("sock")?, "sk_err", 0)?,
        })
    }
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Anonymous structures and unions lie this deep at most.
const MAX_DEPTH: u32 = 8;

struct Types<'a> {
    strings: &'a [u8],
    /// Each type's record, from its header on; index 0 is type 1.
    records: Vec<&'a [u8]>,
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Option<Self> {
        const MAGIC: u32 = 0xeb9f;
        if word(btf, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = btf.get(word(btf, 1)? as usize..)?;
        let types = header.get(word(btf, 2)? as usize..)?.get(..word(btf, 3)? as usize)?;
        let strings = header.get(word(btf, 4)? as usize..)?.get(..word(btf, 5)? as usize)?;
        let mut records = Vec::new();
        let mut rest = types;
        while !rest.is_empty() {
            let length = record_length(rest)?;
            records.push(rest.get(..length)?);
            rest = rest.get(length..)?;
        }
        Some(Self { strings, records })
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(offset as usize..)?.split(|&byte| byte == 0).next()
    }

    fn structure(&self, name: &str) -> Option<&'a [u8]> {
        self.records.iter().copied().find(|record| {
            kind(record) == Some(KIND_STRUCT) && self.record_name(record) == Some(name.as_bytes())
        })
    }

    fn record_name(&self, record: &[u8]) -> Option<&'a [u8]> {
        self.name(word(record, 0)?)
    }

    /// The byte offset of a member, searched through anonymous structures and unions.
    fn member_offset(&self, record: &'a [u8], name: &str, depth: u32) -> Option<u32> {
        let info = word(record, 1)?;
        let has_bit_fields = info >> 31 == 1;
        for member in 0..(info & 0xffff) as usize {
            let at = 3 + 3 * member;
            let raw_offset = word(record, at + 2)?;
            let offset_bits = if has_bit_fields { raw_offset & 0x00ff_ffff } else { raw_offset };
            let member_name = self.name(word(record, at)?)?;
            if member_name == name.as_bytes() {
                return Some(offset_bits / 8);
            }
            if member_name.is_empty() && depth < MAX_DEPTH {
                let index = (word(record, at + 1)? as usize).checked_sub(1)?;
                let inner = self.records.get(index).copied()?;
                if matches!(kind(inner), Some(KIND_STRUCT | KIND_UNION))
                    && let Some(offset) = self.member_offset(inner, name, depth + 1)
                {
                    return Some(offset_bits / 8 + offset);
                }
            }
        }
        None
    }
}

fn kind(record: &[u8]) -> Option<u32> {
    word(record, 1).map(|info| (info >> 24) & 0x1f)
}

/// Length of the first record: a header of three words and what its kind adds.
fn record_length(records: &[u8]) -> Option<usize> {
    let count = (word(records, 1)? & 0xffff) as usize;
    let extra = match kind(records)? {
        // INT, VAR and DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC and ENUM64
        4 | 5 | 15 | 19 => 12 * count,
        // ENUM and FUNC_PROTO
        6 | 13 => 8 * count,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT and TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    };
    Some(12 + extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut btf = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
            btf.extend(bytes);
            let types = Types::parse(&btf);
            let _ = types.as_ref().and_then(TcpSockOffsets::find);
            let _ = types.as_ref().and_then(socket_offsets);
        }
    }

    #[test]
    fn a_member_of_an_anonymous_union_is_found() {
        let strings =
            b"\0tcp_sock\0bytes_acked\0bytes_received\0srtt_us\0total_retrans\0sock_common\0skc_state\0sock\0sk_err\0";
        let offset = |name: &str| {
            let text = String::from_utf8_lossy(strings);
            u32::try_from(text.find(&format!("\0{name}\0")).unwrap() + 1).unwrap()
        };
        let words: Vec<u32> = [
            // type 1: an anonymous union of one member
            vec![0, (KIND_UNION << 24) | 1, 8, offset("bytes_acked"), 0, 0],
            // type 2: struct tcp_sock
            vec![offset("tcp_sock"), (KIND_STRUCT << 24) | 4, 64],
            vec![offset("bytes_received"), 0, 8 * 8],
            vec![0, 1, 16 * 8],
            vec![offset("srtt_us"), 0, 24 * 8],
            vec![offset("total_retrans"), 0, 28 * 8],
            // type 3: struct sock_common
            vec![offset("sock_common"), (KIND_STRUCT << 24) | 1, 64],
            vec![offset("skc_state"), 0, 18 * 8],
            // type 4: struct sock
            vec![offset("sock"), (KIND_STRUCT << 24) | 1, 64],
            vec![offset("sk_err"), 0, 32 * 8],
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let header = [0x0001_eb9f, 24, 0, length(&types), length(&types), length(strings)];
        let mut btf: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        btf.extend(types);
        btf.extend(strings);
        let expected = TcpSockOffsets {
            bytes_acked: 16,
            bytes_received: 8,
            srtt: 24,
            retransmits: 28,
            state: 18,
            error: 32,
        };
        assert_eq!(Types::parse(&btf).as_ref().and_then(TcpSockOffsets::find), Some(expected));
    }
}
