//! Owns `tojson` as transformers has it: `json.dumps` with its arguments, nothing escaped for HTML.

use std::fmt::Write;

use super::text::{Builder, Text};
use super::value::{Dict, Kind, Value};
use super::{Error, Result, meter, ops, repr};

/// The arguments of `json.dumps`.
pub(super) struct Style {
    pub(super) ensure_ascii: bool,
    /// What one level is indented by; `None` is one line.
    pub(super) indent: Option<Text>,
    pub(super) item: Text,
    pub(super) key: Text,
    pub(super) sort_keys: bool,
}

/// Writes a value.
pub(super) fn write(out: &mut Builder, value: &Value, style: &Style, depth: usize) -> Result<()> {
    let _level = meter::deeper()?;
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(x) => out.push_str(&float(*x)),
        Value::Str(text) => write_text(out, text, style),
        Value::Seq(seq) if matches!(seq.kind, Kind::List | Kind::Tuple | Kind::Group) => {
            let items = seq.items();
            if items.is_empty() {
                return out.push_str("[]");
            }
            out.push_str("[")?;
            for (i, item) in items.iter().enumerate() {
                begin(out, i, style, depth + 1)?;
                write(out, item, style, depth + 1)?;
            }
            line(out, style, depth)?;
            out.push_str("]")
        }
        Value::Dict(dict) => write_dict(out, dict, style, depth),
        other => Err(Error::new(format!("Object of type {} is not JSON serializable", other.type_name()))),
    }
}

fn write_dict(out: &mut Builder, dict: &Dict, style: &Style, depth: usize) -> Result<()> {
    if dict.entries.is_empty() {
        return out.push_str("{}");
    }
    let mut entries: Vec<&(Value, Value)> = dict.entries.values().collect();
    if style.sort_keys {
        entries = ops::sort(entries, &mut |a, b| ops::less(&a.0, &b.0))?;
    }
    out.push_str("{")?;
    for (i, (key, value)) in entries.into_iter().enumerate() {
        begin(out, i, style, depth + 1)?;
        match key {
            Value::Str(text) => write_text(out, text, style)?,
            Value::None => out.push_str("\"null\"")?,
            Value::Bool(b) => out.push_str(if *b { "\"true\"" } else { "\"false\"" })?,
            Value::Int(n) => out.push_str(&format!("\"{n}\""))?,
            Value::Float(x) => out.push_str(&format!("\"{}\"", float(*x)))?,
            other => {
                let found = other.type_name();
                return Err(Error::new(format!("keys must be str, int, float, bool or None, not {found}")));
            }
        }
        out.push(&style.key)?;
        write(out, value, style, depth + 1)?;
    }
    line(out, style, depth)?;
    out.push_str("}")
}

/// What stands before the item `i`.
fn begin(out: &mut Builder, i: usize, style: &Style, depth: usize) -> Result<()> {
    if i > 0 {
        out.push(&style.item)?;
    }
    line(out, style, depth)
}

fn line(out: &mut Builder, style: &Style, depth: usize) -> Result<()> {
    let Some(indent) = &style.indent else { return Ok(()) };
    out.push_str("\n")?;
    out.repeat(indent.as_str(), depth)
}

fn float(x: f64) -> String {
    match x {
        x if x.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        x => repr::float(x),
    }
}

fn write_text(out: &mut Builder, text: &Text, style: &Style) -> Result<()> {
    out.push_str("\"")?;
    for (run, typed) in text.runs() {
        meter::bytes(run.len())?;
        out.push_as(&escaped(run, style.ensure_ascii), typed)?;
    }
    out.push_str("\"")
}

fn escaped(text: &str, ensure_ascii: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}
