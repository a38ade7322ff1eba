//! The few strings whose meaning counts, as they are and as HPACK codes them (RFC 7541, appendix B). Decodes nothing else.

use crate::abi::Method;

/// A string of up to 16 bytes: its last bytes, the last one lowest, the ones before, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The bytes before the last eight.
    pub high: u64,
    /// The last eight bytes.
    pub low: u64,
    /// Bytes in all.
    pub length: u32,
}

/// The code of `-`, of six bits.
pub const DASH: u8 = 0x16;

/// The code of a character and its length in bits, of those that are needed.
const fn symbol(character: u8) -> (u128, u32) {
    match character {
        b'-' => (DASH as u128, 6),
        b'/' => (0x18, 6),
        b':' => (0x5c, 7),
        b'A' => (0x21, 6),
        // C to W follow one another.
        b'C'..=b'W' => (0x5e + (character - b'C') as u128, 7),
        b'a' => (0x3, 5),
        b'c' => (0x4, 5),
        b'd' => (0x24, 6),
        b'e' => (0x5, 5),
        b'g' => (0x26, 6),
        b'h' => (0x27, 6),
        b'i' => (0x6, 5),
        b'l' => (0x28, 6),
        b'm' => (0x29, 6),
        b'n' => (0x2a, 6),
        b'o' => (0x7, 5),
        b'p' => (0x2b, 6),
        b'r' => (0x2c, 6),
        b's' => (0x8, 5),
        b't' => (0x9, 5),
        b'u' => (0x2d, 6),
        b'y' => (0x7a, 7),
        _ => panic!("a character whose code is not needed so far"),
    }
}

/// A string as it is coded, ones filling its last byte (section 5.2). For constants only.
#[allow(clippy::cast_possible_truncation, reason = "halves of a number")]
pub const fn code(text: &[u8]) -> Code {
    let (mut bits, mut length, mut at) = (0_u128, 0, 0);
    while at < text.len() {
        let (code, of_code) = symbol(text[at]);
        bits = bits << of_code | code;
        length += of_code;
        at += 1;
    }
    while length % 8 != 0 {
        bits = bits << 1 | 1;
        length += 1;
    }
    assert!(length <= 128, "longer than what is kept of a string");
    Code { high: (bits >> 64) as u64, low: bits as u64, length: length / 8 }
}

/// A string as it is. For constants only.
#[allow(clippy::cast_possible_truncation, reason = "halves of a number, and a short length")]
pub const fn plain(text: &[u8]) -> Code {
    assert!(text.len() <= 16, "longer than what is kept of a string");
    let (mut bits, mut at) = (0_u128, 0);
    while at < text.len() {
        bits = bits << 8 | text[at] as u128;
        at += 1;
    }
    Code { high: (bits >> 64) as u64, low: bits as u64, length: text.len() as u32 }
}

/// A number of one to three digits, in the last `length` bytes of `text`.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "three bytes are looked at")]
pub const fn number(text: u64, length: u8, is_coded: bool) -> Option<u16> {
    if length == 0 || length > 3 {
        return None;
    }
    if is_coded { coded_number(text as u32, length as u32 * 8) } else { plain_number(text as u32, length) }
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a digit")]
const fn plain_number(text: u32, length: u8) -> Option<u16> {
    let mut number = 0;
    let mut at = 3;
    while at > 0 {
        at -= 1;
        if at < length {
            let digit = (text >> (8 * (at as u32 & 3)) & 0xff).wrapping_sub(b'0' as u32);
            if digit > 9 {
                return None;
            }
            number = number * 10 + digit as u16;
        }
    }
    Some(number)
}

/// Digits have codes of five bits (0 to 2) or six (3 to 9).
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a digit")]
const fn coded_number(text: u32, bits: u32) -> Option<u16> {
    let (mut number, mut digits, mut left) = (0_u16, 0, bits);
    while digits < 3 {
        if left < 5 {
            break;
        }
        let five = text >> ((left - 5) & 31) & 0x1f;
        if five <= 2 {
            number = number * 10 + five as u16;
            left -= 5;
        } else {
            if left < 6 {
                break;
            }
            let six = text >> ((left - 6) & 31) & 0x3f;
            // 0x19 is 3.
            if six < 0x19 || six > 0x1f {
                break;
            }
            number = number * 10 + (six - 0x16) as u16;
            left -= 6;
        }
        digits += 1;
    }
    let padding = (1_u32 << (left & 31)) - 1;
    if digits == 0 || left > 7 || text & padding != padding { None } else { Some(number) }
}

/// The method that the last `length` bytes of `text` name.
#[inline(always)]
pub const fn method(text: u64, length: u8, is_coded: bool) -> Method {
    macro_rules! known {
        ($($text:literal => $method:ident),+ $(,)?) => {
            $(
                let wanted = if is_coded { const { code($text) } } else { const { plain($text) } };
                if length as u32 == wanted.length && text == wanted.low {
                    return Method::$method;
                }
            )+
        };
    }
    known!(
        b"GET" => Get,
        b"POST" => Post,
        b"PUT" => Put,
        b"HEAD" => Head,
        b"DELETE" => Delete,
        b"PATCH" => Patch,
        b"OPTIONS" => Options,
        b"CONNECT" => Connect,
        b"TRACE" => Trace,
    );
    Method::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_are_looked_for_have_the_lengths_that_are_gathered() {
        let names = [&b"grpc-status"[..], b":status", b":method", b"content-type"];
        assert_eq!(names.map(|name| code(name).length), [8, 5, 5, 9]);
        assert_eq!(names.map(|name| plain(name).length), [11, 7, 7, 12]);
    }

    #[test]
    fn a_number_is_its_digits_and_nothing_else() {
        for text in 0..=u32::from(u16::MAX) {
            for length in 1..=2_u8 {
                // Whatever is no number is told to be none; what is one, the property of `http2::tests` covers.
                if let Some(found) = number(text.into(), length, false) {
                    assert_eq!(
                        format!("{found:0width$}", width = usize::from(length)),
                        String::from_utf8_lossy(&text.to_be_bytes()[4 - usize::from(length)..])
                    );
                }
                assert!(number(text.into(), length, true).is_none_or(|found| found <= 999));
            }
        }
        assert_eq!((number(0, 0, false), number(0, 4, true)), (None, None));
    }
}
