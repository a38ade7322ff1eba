//! What an application says of its trace at the beginning of a request: W3C Trace Context (`traceparent`). Keeps nothing else
//! of it, but for the path where an operator asked for that.

use httparse::{EMPTY_HEADER, Request, Status};

/// Headers looked at. The bytes that are told hold more only where most of them are empty.
const MOST_HEADERS: usize = 128;
/// What is kept of a path, in bytes.
const LONGEST_PATH: usize = 512;

/// Whose work a request is, in the words of its application (W3C Trace Context, section 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not zero.
    pub trace_id: u128,
    /// The span in which the application made the request; not zero.
    pub parent_id: u64,
    /// The application records this trace.
    pub sampled: bool,
}

impl TraceContext {
    /// The value of a `traceparent` header; `None` where it is none by the specification.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(4, '-');
        let version = hexadecimal(parts.next()?, 2)?;
        let trace_id = hexadecimal(parts.next()?, 32).filter(|id| *id != 0)?;
        let parent_id = hexadecimal(parts.next()?, 16).filter(|id| *id != 0)?;
        let rest = parts.next()?;
        // A later version may say more behind a dash; the first says nothing more, and 255 is none.
        let flags = match (version, rest.split_once('-')) {
            (255, _) | (0, Some(_)) => return None,
            (_, Some((flags, _))) => flags,
            (_, None) => rest,
        };
        let flags = hexadecimal(flags, 2)?;
        Some(Self { trace_id, parent_id: u64::try_from(parent_id).ok()?, sampled: flags & 1 != 0 })
    }
}

/// Exactly so many digits of lower case.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_one = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(is_one)).then(|| u128::from_str_radix(text, 16).ok())?
}

/// What is kept of the beginning of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// What the application says of its trace.
    pub context: Option<TraceContext>,
    /// The path without its query; `None` unless it was asked for.
    pub path: Option<String>,
    /// The minor version of HTTP/1.
    pub minor_version: Option<u8>,
}

impl Beginning {
    /// Reads the first bytes of an HTTP/1 request, which may end anywhere.
    pub fn read(bytes: &[u8], with_path: bool) -> Self {
        // The parser fills in headers of whole requests only, so the last whole line becomes the last one.
        let whole = bytes.windows(2).rposition(|pair| pair == b"\r\n").map_or(0, |at| at + 2);
        let mut text = bytes[..whole].to_vec();
        text.extend(b"\r\n");
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut request = Request::new(&mut headers);
        if !matches!(request.parse(&text), Ok(Status::Complete(_))) {
            return Self::default();
        }
        let mut contexts = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("traceparent"));
        // Two are none (section 3.3): nobody knows whose came first.
        let context = match (contexts.next(), contexts.next()) {
            (Some(one), None) => std::str::from_utf8(one.value).ok().and_then(TraceContext::parse),
            _ => None,
        };
        let path = request.path.filter(|_| with_path).and_then(path_of);
        Self { context, path, minor_version: request.version }
    }
}

/// The path of a target without what may hold secrets: query and fragment. `None` of a target that is none.
fn path_of(target: &str) -> Option<String> {
    let path = target.split(['?', '#']).next().filter(|path| path.starts_with('/'))?;
    let mut end = path.len().min(LONGEST_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    Some(path[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WRITTEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn written() -> TraceContext {
        TraceContext {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            parent_id: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        }
    }

    #[test]
    fn a_traceparent_is_read_by_the_letter() {
        assert_eq!(TraceContext::parse(WRITTEN), Some(written()));
        let unsampled = WRITTEN.replace("-01", "-00");
        assert_eq!(TraceContext::parse(&unsampled), Some(TraceContext { sampled: false, ..written() }));
        // A later version, with and without more behind it.
        for later in
            ["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", &WRITTEN.replace("00-4", "01-4")]
        {
            assert_eq!(TraceContext::parse(later), Some(written()), "{later}");
        }
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_beginning_says_its_trace_and_its_path_only_where_asked() {
        let bytes =
            format!("GET /cart?user=7#x HTTP/1.1\r\nhost: shop\r\nTraceParent:  {WRITTEN} \r\n\r\nbody\r\n");
        let beginning = Beginning::read(bytes.as_bytes(), false);
        assert_eq!(beginning, Beginning { context: Some(written()), path: None, minor_version: Some(1) });
        assert_eq!(Beginning::read(bytes.as_bytes(), true).path.as_deref(), Some("/cart"));
        let twice = format!("GET / HTTP/1.0\r\ntraceparent: {WRITTEN}\r\ntraceparent: {WRITTEN}\r\n\r\n");
        let expected = Beginning { minor_version: Some(0), ..Beginning::default() };
        assert_eq!(Beginning::read(twice.as_bytes(), false), expected);
    }

    proptest! {
        /// Cut anywhere, a context is there if and only if its whole line is.
        #[test]
        fn a_beginning_may_end_anywhere(before in 0_usize..30, cut: prop::sample::Index) {
            let headers: String = (0..before).map(|at| format!("x-{at}: {at}\r\n")).collect();
            let head = format!("POST /a HTTP/1.1\r\n{headers}traceparent: {WRITTEN}\r\n");
            let at = cut.index(head.len() + 1);
            let context = Beginning::read(&head.as_bytes()[..at], false).context;
            prop_assert_eq!(context, (at == head.len()).then(written));
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), with_path: bool) {
            let _ = Beginning::read(&bytes, with_path);
        }

        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,80}") {
            let _ = TraceContext::parse(&text);
        }
    }
}
