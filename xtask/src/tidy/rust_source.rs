//! Rust source with its comments and literals told apart, far enough to search code without finding prose.
//! It is a scanner, not a parser: it knows tokens and no grammar.

/// What of a source is blanked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blank {
    /// Comments.
    Comments,
    /// Comments, and what is between the quotes of string and character literals.
    CommentsAndLiterals,
}

/// The source with everything asked for replaced by spaces; line breaks stay, so that lines keep their numbers.
pub(crate) fn blanked(source: &str, blank: Blank) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (length, is_comment) = if rest.starts_with(b"//") {
            (rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()), true)
        } else if rest.starts_with(b"/*") {
            (block_comment(rest), true)
        } else if let Some(length) = literal(bytes, at) {
            (length, false)
        } else {
            at += 1;
            continue;
        };
        let end = (at + length).min(bytes.len());
        if is_comment || blank == Blank::CommentsAndLiterals {
            let delimiters = usize::from(!is_comment);
            for byte in out[at + delimiters..].iter_mut().take((end - at).saturating_sub(2 * delimiters)) {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The part of a source before its tests.
pub(crate) fn before_tests(source: &str) -> &str {
    source.find("\n#[cfg(test)]\nmod ").map_or(source, |at| &source[..=at])
}

/// Whether `word` stands at this place and is no part of a longer identifier.
fn is_word_at(code: &str, at: usize, word: &str) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = code.as_bytes();
    let (before, after) = (bytes[..at].last(), bytes.get(at + word.len()));
    !before.is_some_and(is_part) && !after.is_some_and(is_part)
}

/// The line numbers, from 1, on which `word` stands as a whole; `word` may be a path such as `std::fs`.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let has_word = |line: &str| line.match_indices(word).any(|(at, _)| is_word_at(line, at, word));
    code.lines().enumerate().filter(|(_, line)| has_word(line)).map(|(index, _)| index + 1).collect()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the string or character literal that begins at `at`, if one does.
fn literal(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    match rest[0] {
        b'"' => Some(quoted(rest, b'"')),
        b'r' if at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'b') => {
            raw_string(rest)
        }
        // `'a'` and `'\n'` are characters, `'a` is a lifetime; a character beyond ASCII ends within 4 bytes.
        b'\'' if rest.get(1) == Some(&b'\\') => Some(quoted(rest, b'\'')),
        b'\'' => {
            let end = rest.iter().skip(2).take(4).position(|byte| *byte == b'\'')? + 3;
            let is_one_character =
                std::str::from_utf8(&rest[1..end - 1]).is_ok_and(|s| s.chars().count() == 1);
            is_one_character.then_some(end)
        }
        _ => None,
    }
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut closing = vec![b'"'];
    closing.resize(1 + hashes, b'#');
    let body = &rest[2 + hashes..];
    let end = body.windows(closing.len()).position(|window| window == closing)?;
    Some(2 + hashes + end + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        blanked(source, Blank::CommentsAndLiterals)
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let source =
            "a(); // unsafe\n/* unsafe /* x */ unsafe */ b(\"unsafe\\\" unsafe\", r#\"un\"safe\"#, 'u');\n";
        let code = code(source);
        assert!(!code.contains("unsafe"), "{code}");
        assert!(!code.contains("safe"), "{code}");
        assert!(code.contains("a();") && code.contains(" b(\""), "{code}");
    }

    #[test]
    fn lifetimes_and_escaped_characters_hide_nothing() {
        assert!(code("fn f<'a>(x: &'a str) { unsafe { g('\\'') } }").contains("unsafe"));
        assert!(code("let x = 'ä'; unsafe {}").contains("unsafe"));
        assert!(code("f(b'\"'); unsafe {}").contains("unsafe"));
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "/*\n\n*/\nlet x = \"\n\";\nunsafe {}\n";
        assert_eq!(lines_with(&code(source), "unsafe"), [6]);
    }

    #[test]
    fn literals_stay_where_only_comments_are_blanked() {
        let code = blanked("f(\"text\"); // prose", Blank::Comments);
        assert!(code.contains("\"text\"") && !code.contains("prose"), "{code}");
    }

    #[test]
    fn a_word_is_not_found_within_a_longer_one() {
        assert_eq!(lines_with("aya_ebpf::x\naya::y\nmaya::z\n", "aya"), [2]);
    }

    #[test]
    fn tests_end_what_counts_as_the_file() {
        assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests {}\n"), "a\n");
        assert_eq!(before_tests("a\n#[cfg(test)]\nuse x;\n"), "a\n#[cfg(test)]\nuse x;\n");
    }
}
