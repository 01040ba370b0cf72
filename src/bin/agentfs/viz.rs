//! The history of a project as one HTML page that needs nothing else.
//!
//! The page holds its data as JSON in a script element that never runs. Its policy permits exactly the
//! script and the style that are in it, by their hashes, and no connection at all: a prompt or a file
//! that contains HTML is text, and would be powerless if it were not.

use serde_json::Value;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("viz.html");

/// The page for `{"project", "dir", "generated", "sessions": [{"id", "prompts"}], "checkpoints": […]}`,
/// where each checkpoint has `"diffs": [{"path", "status", "added", "removed", "text", "cut"}]`: the
/// unified diff, null for binary files and where there is no room, and whether it is only the beginning.
pub fn page(data: &Value) -> String {
    let title = match data["project"].as_str() {
        Some(project) => format!("{project} - agentfs"),
        None => "agentfs".to_owned(),
    };
    let values = [
        ("{{policy}}", policy()),
        ("{{title}}", text(&title)),
        ("{{data}}", json(data)),
    ];
    let mut out = String::with_capacity(PAGE.len() + values[2].1.len());
    let mut rest = PAGE;
    for (name, value) in values {
        let (before, after) = rest.split_once(name).unwrap_or((rest, ""));
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    out + rest
}

fn policy() -> String {
    let style = hash(between("<style>", "</style>"));
    let script = hash(between("<script>", "</script>"));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; \
         base-uri 'none'; form-action 'none'"
    )
}

fn between(start: &str, end: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(start).unwrap_or(("", ""));
    rest.split_once(end).map_or("", |(between, _)| between)
}

/// As a policy names what it permits.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text.as_bytes())))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            let missing = at > group.len();
            out.push(if missing { '=' } else { char::from(digit) });
        }
    }
    out
}

/// Text as HTML.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

/// JSON in which nothing means anything to HTML: such characters occur only within its strings.
fn json(data: &Value) -> String {
    let plain = data.to_string();
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_the_script_it_is_in() {
        let hostile = "</script><script>alert(1)</script><!--\u{2028}&amp;{{title}}";
        let data = serde_json::json!({"project": hostile, "checkpoints": [{"prompt": hostile}]});
        let page = page(&data);
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(page.contains("<title>&lt;/script&gt;&lt;script&gt;alert(1)"));
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        let (embedded, _) = rest.split_once("</script>").unwrap();
        assert!(!embedded.contains(['\u{2028}', '<', '>', '&']));
        assert_eq!(serde_json::from_str::<Value>(embedded).unwrap(), data);
    }

    #[test]
    fn the_page_asks_for_nothing_from_outside() {
        let page = page(&Value::Null);
        assert!(!page.contains("{{"), "a placeholder is left");
        for outside in ["http://", "https://", "@import", "url(", "src=\"", "fetch("] {
            let found = page.matches(outside).count();
            let namespaces = page.matches("http://www.w3.org/2000/svg").count();
            let expected = if outside == "http://" { namespaces } else { 0 };
            assert_eq!(found, expected, "{outside}");
        }
        assert!(page.contains("default-src 'none'; script-src 'sha256-"));
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, digits) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), digits);
        }
    }
}
