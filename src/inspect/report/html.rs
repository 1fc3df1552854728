//! The page: a frame, a style, a script, and the data.
//!
//! What comes out of a file is data inside of a script element that is not run. No octet in it can end that element, for `<` is written as
//! an escape, and the script makes text of it only (`textContent`), never markup. The page's own policy forbids it to load anything.

use super::Report;
use std::io::{self, Write};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &[&str] = &[
    include_str!("page/elements.js"),
    include_str!("page/chart.js"),
    include_str!("page/map.js"),
    include_str!("page/records.js"),
    include_str!("page/tree.js"),
    include_str!("page/stream.js"),
    include_str!("page/log.js"),
    include_str!("page/main.js"),
];

/// Writes the page.
///
/// # Errors
/// The writer's.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut rest = FRAME;
    while let Some((before, after)) = rest.split_once("{{") {
        out.write_all(before.as_bytes())?;
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        rest = after;
        match name {
            "title" => out.write_all(escaped(&report.file).as_bytes())?,
            "style" => out.write_all(STYLE.as_bytes())?,
            "data" => serde_json::to_writer(Escape(&mut *out), report)?,
            _ => SCRIPT.iter().try_for_each(|part| out.write_all(part.as_bytes()))?,
        }
    }
    out.write_all(rest.as_bytes())
}

/// Text between tags.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// JSON that can stand in a script element: of these characters, which it has inside of texts alone, none is left.
struct Escape<W>(W);

impl<W: Write> Write for Escape<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut plain = 0;
        for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'<' | b'>' | b'&')) {
            self.0.write_all(bytes.get(plain..at).unwrap_or_default())?;
            write!(self.0, "\\u{byte:04x}")?;
            plain = at + 1;
        }
        self.0.write_all(bytes.get(plain..).unwrap_or_default())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_end_the_element_that_it_is_in() {
        let mut out = Vec::new();
        let text = "</script><!--<script>&amp;\u{2028}";
        serde_json::to_writer(Escape(&mut out), text).unwrap();
        let json = String::from_utf8(out).unwrap();
        assert!(!json.contains(['<', '>', '&']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        assert_eq!(escaped("a<b>&\"\x1b"), "a&lt;b&gt;&amp;&quot;\u{fffd}");
    }

    #[test]
    fn the_frame_has_each_part_and_fetches_nothing() {
        for (part, times) in [("{{title}}", 2), ("{{style}}", 1), ("{{data}}", 1), ("{{script}}", 1)] {
            assert_eq!(FRAME.matches(part).count(), times, "{part}");
        }
        assert!(FRAME.contains("default-src 'none'"), "the policy");
        for part in SCRIPT.iter().chain([&FRAME, &STYLE]) {
            for word in [
                "http:",
                "https:",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "url(",
                "@import",
                "src=",
                "fetch(",
            ] {
                assert!(
                    !part.contains(word) || part.contains("http://www.w3.org/2000/svg") && word == "http:",
                    "{word}"
                );
            }
        }
        assert!(SCRIPT.iter().all(|part| !part.contains("</script")));
    }
}
