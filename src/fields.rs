//! Reading single values out of a line of JSON, which is what a session's lines are.
//!
//! Values are found, not checked: a value is where the text says it is, as the bytes that stand there.
//! Lines may be malformed, cut short, or two objects glued together; what cannot be made sense of
//! gives no value. Nothing recurses, so no line is too deep.

/// The objects of a line, one after the other.
pub fn objects(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = trimmed(rest);
        let end = (rest.first() == Some(&b'{')).then(|| end(rest)).flatten()?;
        let object = &rest[..end];
        rest = &rest[end..];
        Some(object)
    })
}

/// The value of an object's own member of this name; the last if there are several, as in JavaScript.
pub fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    each_member(object, |key, value| {
        if is_named(key, name) {
            found = value;
        }
    })?;
    found
}

/// All members of an object, for who wants many of a long one.
pub struct Members<'a>(Vec<(&'a [u8], Option<&'a [u8]>)>);

impl<'a> Members<'a> {
    pub fn of(object: &'a [u8]) -> Members<'a> {
        let mut all = Vec::new();
        let whole = each_member(object, |key, value| all.push((key, value)));
        Members(if whole.is_some() { all } else { Vec::new() })
    }

    /// As [`member`].
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().rfind(|(key, _)| is_named(key, name))?.1
    }
}

/// `None` where what should be an object is none.
fn each_member<'a>(
    object: &'a [u8],
    mut each: impl FnMut(&'a [u8], Option<&'a [u8]>),
) -> Option<()> {
    let mut rest = object.strip_prefix(b"{")?;
    loop {
        rest = trimmed(rest);
        rest = trimmed(rest.strip_prefix(b",").unwrap_or(rest));
        if rest.first() != Some(&b'"') {
            return Some(());
        }
        let (Some(key), after) = split(rest)? else {
            return Some(());
        };
        rest = trimmed(trimmed(after).strip_prefix(b":")?);
        let (value, after) = split(rest)?;
        each(key, value);
        rest = after;
    }
}

/// The values of an array.
pub fn elements(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = array.strip_prefix(b"[").unwrap_or_default();
    std::iter::from_fn(move || {
        rest = trimmed(rest);
        rest = trimmed(rest.strip_prefix(b",").unwrap_or(rest));
        let (value, after) = split(rest)?;
        rest = after;
        value
    })
}

/// A string's text. Half a surrogate pair and what is no UTF-8 come as U+FFFD.
pub fn text(value: &[u8]) -> Option<String> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut units: Vec<u16> = Vec::new();
    let mut out = String::new();
    let mut rest = inner;
    while let Some(&byte) = rest.first() {
        if byte == b'\\' {
            let (unit, length) = escape(&rest[1..])?;
            units.push(unit);
            rest = &rest[1 + length..];
        } else {
            flush(&mut units, &mut out);
            let plain = rest.iter().position(|&b| b == b'\\').unwrap_or(rest.len());
            out.push_str(&String::from_utf8_lossy(&rest[..plain]));
            rest = &rest[plain..];
        }
    }
    flush(&mut units, &mut out);
    Some(out)
}

fn flush(units: &mut Vec<u16>, out: &mut String) {
    out.push_str(&String::from_utf16_lossy(units));
    units.clear();
}

/// The UTF-16 unit that an escape stands for, and the bytes it has behind its backslash.
fn escape(rest: &[u8]) -> Option<(u16, usize)> {
    let unit = match rest.first()? {
        c @ (b'"' | b'\\' | b'/') => *c,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let digits = str::from_utf8(rest.get(1..5)?).ok()?;
            return Some((u16::from_str_radix(digits, 16).ok()?, 5));
        }
        _ => return None,
    };
    Some((unit.into(), 1))
}

fn is_named(key: &[u8], name: &str) -> bool {
    let bare = key.len() == name.len() + 2 && &key[1..key.len() - 1] == name.as_bytes();
    bare || (key.contains(&b'\\') && text(key).is_some_and(|key| key == name))
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start()
}

/// The value at the start, if there is one, and what follows it; `None` if it never ends.
fn split(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let end = end(bytes)?;
    let (value, rest) = bytes.split_at(end);
    Some(((end > 0).then_some(value), rest))
}

/// Where the value at the start ends; `None` if it does not.
fn end(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'"' => string_end(bytes),
        b'{' | b'[' => {
            let (mut depth, mut at) = (0usize, 0);
            loop {
                match bytes.get(at)? {
                    b'"' => at += string_end(&bytes[at..])? - 1,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let ends = |b: &u8| b",]}:".contains(b) || b.is_ascii_whitespace();
            Some(bytes.iter().position(ends).unwrap_or(bytes.len()))
        }
    }
}

fn string_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(object: &str, name: &str) -> Option<String> {
        text(member(object.as_bytes(), name)?)
    }

    #[test]
    fn a_member_is_the_object_s_own_and_the_last_of_its_name() {
        let object = r#"{ "a" : {"cwd":"/inner","b":["}","{\"cwd\":\"/no\""]} , "t":"\"cwd\":\"/no\"",
            "n":-1.5e3,"cwd":"/first","x":null,"cwd" : "/last","z":[] }"#;
        assert_eq!(string(object, "cwd").as_deref(), Some("/last"));
        assert_eq!(member(object.as_bytes(), "n"), Some(&b"-1.5e3"[..]));
        assert_eq!(member(object.as_bytes(), "x"), Some(&b"null"[..]));
        assert_eq!(member(object.as_bytes(), "z"), Some(&b"[]"[..]));
        assert_eq!(member(object.as_bytes(), "b"), None);
        let inner = member(object.as_bytes(), "a").unwrap();
        assert_eq!(
            text(member(inner, "cwd").unwrap()).as_deref(),
            Some("/inner")
        );
        assert_eq!(string(r#"{"\u0063wd":"/x"}"#, "cwd").as_deref(), Some("/x"));
        assert_eq!(member(b"{}", "cwd"), None);
    }

    #[test]
    fn all_members_at_once_are_those_asked_for_one_by_one() {
        for object in [
            r#"{"a":1,"b":{"a":2},"\u0061":[3],"c":,"d":"x"}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":1,"b"}"#,
            r#"{"a":}"#,
            "[]",
            "{}",
        ] {
            let all = Members::of(object.as_bytes());
            for name in ["a", "b", "c", "d", "e"] {
                let one = member(object.as_bytes(), name);
                assert_eq!(all.get(name), one, "{name} of {object}");
            }
        }
    }

    #[test]
    fn strings_are_unescaped() {
        for (json, plain) in [
            (r#""""#, Some("")),
            (r#""a\"b\\c\/d""#, Some("a\"b\\c/d")),
            (r#""\b\f\n\r\t""#, Some("\u{8}\u{c}\n\r\t")),
            (r#""\u00e9 caf\u00E9 é""#, Some("é café é")),
            (r#""\ud83d\ude00x""#, Some("😀x")),
            (r#""\ud83dx""#, Some("\u{fffd}x")),
            (r#""\x""#, None),
            (r#""\u12""#, None),
            ("12", None),
            ("\"", None),
        ] {
            assert_eq!(text(json.as_bytes()).as_deref(), plain, "{json}");
        }
        assert_eq!(text(b"\"\xff\"").as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn malformed_lines_give_what_is_whole() {
        let cwds = |line: &str| -> Vec<String> {
            let found = objects(line.as_bytes()).filter_map(|o| text(member(o, "cwd")?));
            found.collect()
        };
        assert_eq!(cwds(r#"{"cwd":"/a"}{"cwd":"/b"} {"cwd":"/c"#), ["/a", "/b"]);
        for line in [
            "",
            "null",
            "{",
            "}",
            "[]",
            r#"{"cwd"}"#,
            r#"{"cwd":}"#,
            r#"{"cwd":"/a"#,
            r#"{"cwd":"/a\"#,
            r#"{:"/a"}"#,
            r#"{"cwd" "/a"}"#,
            r#"{"cwd":12}"#,
            r#"{cwd:"/a"}"#,
            "{]",
            "[}",
        ] {
            assert_eq!(cwds(line), [""; 0], "{line}");
        }
        let deep = format!(
            "{{\"a\":{}{},\"cwd\":\"/d\"}}",
            "[".repeat(99_999),
            "]".repeat(99_999)
        );
        assert_eq!(cwds(&deep), ["/d"]);
    }

    #[test]
    fn an_array_gives_its_values() {
        let values: Vec<&[u8]> = elements(br#" [1, "a,b" ,{"c":[]}]"#.trim_ascii()).collect();
        assert_eq!(values, [&b"1"[..], b"\"a,b\"", br#"{"c":[]}"#]);
        assert_eq!(elements(b"[]").count() + elements(b"7").count(), 0);
        assert_eq!(elements(b"[1,").count(), 1);
    }
}
