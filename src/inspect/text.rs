//! A JSON value as indented text, for `dump -v`.

use serde_json::Value;
use std::io::{self, Write};

/// Columns of a line; lists that fit stay on one.
const WIDTH: usize = 110;

/// Writes `value`, an object as a rule, one field a line.
///
/// # Errors
/// The writer's.
pub fn write(out: &mut dyn Write, value: &Value, indent: usize) -> io::Result<()> {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                field(out, key, value, indent)?;
            }
            Ok(())
        }
        Value::Array(values) => {
            for value in values {
                element(out, value, indent)?;
            }
            Ok(())
        }
        scalar => writeln!(out, "{:indent$}{}", "", plain(scalar)),
    }
}

fn field(out: &mut dyn Write, key: &str, value: &Value, indent: usize) -> io::Result<()> {
    match one_line(value, WIDTH.saturating_sub(indent + key.len() + 2)) {
        Some(text) => writeln!(out, "{:indent$}{key}: {text}", ""),
        None => {
            writeln!(out, "{:indent$}{key}:", "")?;
            write(out, value, indent + 2)
        }
    }
}

fn element(out: &mut dyn Write, value: &Value, indent: usize) -> io::Result<()> {
    match one_line(value, WIDTH.saturating_sub(indent + 2)) {
        Some(text) => writeln!(out, "{:indent$}- {text}", ""),
        None => {
            writeln!(out, "{:indent$}-", "")?;
            write(out, value, indent + 2)
        }
    }
}

/// The value on one line, when it is a scalar or fits.
fn one_line(value: &Value, width: usize) -> Option<String> {
    let text = match value {
        Value::Object(fields) => {
            let part = |(key, value): (&String, &Value)| {
                let text = one_line(value, width)?;
                Some(if value.is_object() { format!("{key} {{{text}}}") } else { format!("{key} {text}") })
            };
            fields.iter().map(part).collect::<Option<Vec<_>>>()?.join(", ")
        }
        Value::Array(values) => {
            let part = |value: &Value| one_line(value, width).filter(|_| !value.is_object());
            format!("[{}]", values.iter().map(part).collect::<Option<Vec<_>>>()?.join(", "))
        }
        scalar => return Some(plain(scalar)),
    };
    (text.len() <= width).then_some(text)
}

fn plain(value: &Value) -> String {
    match value {
        // Control characters of a hostile stream must not reach a terminal.
        Value::String(text) if text.chars().all(|c| !c.is_control()) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_values_are_indented_and_short_ones_stay_on_a_line() {
        let value = json!({
            "name": "pv48",
            "flags": ["a", "b"],
            "entry": {"id": 1, "type": "CPU"},
            "list": [{"x": 1, "deep": {"y": 2}}, {"x": 2}],
            "evil": "a\u{1b}[2Jb",
        });
        let mut out = Vec::new();
        write(&mut out, &value, 4).unwrap();
        let expected = "    name: pv48\n    flags: [a, b]\n    entry: id 1, type CPU\n    list:\n      - x 1, deep {y 2}\n      - x 2\n    evil: \"a\\u001b[2Jb\"\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
