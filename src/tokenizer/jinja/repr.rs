//! Owns how values are written: Python's `str` and `repr`, and `pprint`.

use std::sync::LazyLock;

use regex::Regex;

use super::Result;
use super::meter;
use super::text::{Builder, Text};
use super::value::{Dict, Kind, Object, Seq, Value};

/// `str(value)`.
pub(super) fn str(value: &Value) -> Result<Text> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        other => {
            let mut out = Builder::new();
            write_str(&mut out, other)?;
            out.finish()
        }
    }
}

/// Writes `str(value)`.
pub(super) fn write_str(out: &mut Builder, value: &Value) -> Result<()> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Str(text) => out.push(text),
        other => write_repr(out, other),
    }
}

/// Writes `repr(value)`.
pub(super) fn write_repr(out: &mut Builder, value: &Value) -> Result<()> {
    let _level = meter::deeper()?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(x) => out.push_str(&float(*x)),
        Value::Str(text) => {
            let quoted = quoted(text.as_str())?;
            match text.is_markup() {
                true => out.push_as(&format!("Markup({quoted})"), text.has_typed()),
                false => out.push_as(&quoted, text.has_typed()),
            }
        }
        Value::Seq(seq) => write_seq(out, seq),
        Value::Dict(dict) => write_dict(out, dict),
        Value::Method(method) => {
            out.push_str(&format!("<built-in method {} of {} object>", method.1, method.0.type_name()))
        }
        Value::Function(name) => out.push_str(&format!("<function {name}>")),
        Value::Macro(value) => match &value.def.name {
            Some(name) => out.push_str(&format!("<Macro '{name}'>")),
            None => out.push_str("<Macro anonymous>"),
        },
        Value::Object(object) => write_object(out, object),
    }
}

fn write_object(out: &mut Builder, object: &Object) -> Result<()> {
    match object {
        Object::Namespace(dict) => {
            out.push_str("<Namespace ")?;
            write_dict(out, &dict.borrow())?;
            out.push_str(">")
        }
        Object::Loop(state) => {
            let state = state.borrow();
            out.push_str(&format!("<LoopContext {}/{}>", state.index0 + 1, state.items.items().len()))
        }
        Object::Cycler { .. } => out.push_str("<Cycler>"),
        Object::Joiner { .. } => out.push_str("<Joiner>"),
    }
}

fn write_seq(out: &mut Builder, seq: &Seq) -> Result<()> {
    let items = seq.items();
    match seq.kind {
        Kind::Generator => return out.push_str("<generator object>"),
        Kind::Range => return out.push_str(&range(items)),
        Kind::Keys => out.push_str("dict_keys(")?,
        Kind::Values => out.push_str("dict_values(")?,
        Kind::Items => out.push_str("dict_items(")?,
        Kind::List | Kind::Tuple | Kind::Group => {}
    }
    let is_tuple = matches!(seq.kind, Kind::Tuple | Kind::Group);
    out.push_str(if is_tuple { "(" } else { "[" })?;
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" })?;
        write_repr(out, item)?;
    }
    out.push_str(if is_tuple && items.len() == 1 { "," } else { "" })?;
    out.push_str(if is_tuple { ")" } else { "]" })?;
    out.push_str(if matches!(seq.kind, Kind::Keys | Kind::Values | Kind::Items) { ")" } else { "" })
}

/// How Python writes a range; of an empty one the bounds are lost.
fn range(items: &[Value]) -> String {
    let at = |i: usize| items.get(i).and_then(Value::as_int);
    let (Some(start), Some(last)) = (at(0), at(items.len().wrapping_sub(1))) else { return "range(0, 0)".to_owned() };
    let step = at(1).map_or(1, |second| second - start);
    let stop = last + step.signum();
    if step == 1 { format!("range({start}, {stop})") } else { format!("range({start}, {stop}, {step})") }
}

fn write_dict(out: &mut Builder, dict: &Dict) -> Result<()> {
    out.push_str("{")?;
    for (i, (key, value)) in dict.entries.values().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" })?;
        write_repr(out, key)?;
        out.push_str(": ")?;
        write_repr(out, value)?;
    }
    out.push_str("}")
}

/// A number as Python writes it: the shortest text that reads back, with an exponent where that is far away.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || x == 0.0 {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A text in quotes, what cannot be printed escaped.
pub(super) fn quoted(text: &str) -> Result<String> {
    // Whether a character is shown takes a look into tables, but for ASCII.
    meter::work(if text.is_ascii() { text.len() / 4 } else { text.len() })?;
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if is_printable(c) => out.push(c),
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
    Ok(out)
}

/// Whether Python prints a character as it stands.
pub(super) fn is_printable(c: char) -> bool {
    static HIDDEN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}]$").unwrap_or_else(|e| unreachable!("{e}")));
    c == ' ' || !HIDDEN.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Columns of `pprint`.
const WIDTH: usize = 80;

/// `pprint.pformat(value)`: on one line where that fits, else an item per line; keys sorted.
pub(super) fn write_pretty(out: &mut Builder, value: &Value, indent: usize, after: usize) -> Result<()> {
    let _level = meter::deeper()?;
    let mut line = Builder::new();
    match value {
        Value::Dict(dict) => write_dict(&mut line, &sorted(dict)?)?,
        other => write_repr(&mut line, other)?,
    }
    let line = line.finish()?;
    let is_short = line.n_chars()? <= WIDTH.saturating_sub(indent + after);
    match value {
        Value::Seq(seq) if !is_short && matches!(seq.kind, Kind::List | Kind::Tuple) => {
            let (open, close) = if seq.kind == Kind::List { ("[", "]") } else { ("(", ")") };
            let close = if seq.kind == Kind::Tuple && seq.items().len() == 1 { ",)" } else { close };
            out.push_str(open)?;
            let last = seq.items().len() - 1;
            for (i, item) in seq.items().iter().enumerate() {
                separate(out, i, indent + 1)?;
                write_pretty(out, item, indent + 1, if i == last { after + close.len() } else { 1 })?;
            }
            out.push_str(close)
        }
        Value::Dict(dict) if !is_short => {
            let dict = sorted(dict)?;
            out.push_str("{")?;
            let last = dict.entries.len() - 1;
            for (i, (key, value)) in dict.entries.values().enumerate() {
                separate(out, i, indent + 1)?;
                let start = out.len();
                write_repr(out, key)?;
                out.push_str(": ")?;
                let width = out.len() - start;
                write_pretty(out, value, indent + 1 + width, if i == last { after + 1 } else { 1 })?;
            }
            out.push_str("}")
        }
        _ => out.push(&line),
    }
}

fn separate(out: &mut Builder, i: usize, indent: usize) -> Result<()> {
    if i == 0 {
        return Ok(());
    }
    out.push_str(",\n")?;
    out.repeat(" ", indent)
}

fn sorted(dict: &Dict) -> Result<Dict> {
    let mut keys: Vec<&(Value, Value)> = dict.entries.values().collect();
    meter::work(16 * keys.len())?;
    keys.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
    let mut sorted = Dict::empty();
    for (key, value) in keys {
        sorted.insert(key.clone(), value.clone())?;
    }
    Ok(sorted)
}
