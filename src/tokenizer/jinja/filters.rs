//! Owns the filters: Jinja2's, with transformers' `tojson`.

use super::args::{Bound, Given};
use super::text::{Builder, Text};
use super::value::{Kind, Value};
use super::{Error, Result, access, format, json, markup, meter, methods, number, repr, sequences, strings, wrap};

/// `value|name(...)`.
pub(super) fn call(name: &str, value: &Value, args: Given) -> Result<Value> {
    meter::bytes(value.as_str().map_or(0, str::len))?;
    match name {
        "default" | "d" => {
            let args = args.bind(name, ["default_value", "boolean"])?;
            let replaced = value.is_undefined() || (args.is_true(1, false) && !value.is_true());
            if !replaced {
                return Ok(value.clone());
            }
            args.value(0).cloned().map_or_else(|| Value::text(""), Ok)
        }
        "length" | "count" => args.none(name).and_then(|()| Ok(Value::Int(access::length(value)? as i64))),
        "tojson" => to_json(value, args.bind(name, ["ensure_ascii", "indent", "separators", "sort_keys"])?),
        "string" => args.none(name).and_then(|()| Ok(Value::Str(repr::str(value)?))),
        "int" => {
            let args = args.bind(name, ["default", "base"])?;
            methods::to_int(value, args.value(0).unwrap_or(&Value::Int(0)), args.int(1, 10)?)
        }
        "float" => {
            let args = args.bind(name, ["default"])?;
            methods::to_float(value, args.value(0).unwrap_or(&Value::Float(0.0)))
        }
        "abs" | "round" => numeric(name, value, args),
        "format" => {
            let text = repr::str(value)?;
            if args.positional.is_empty() && !args.named.is_empty() {
                return format::percent(&text, &args.named_dict()?.into_value());
            }
            if !args.named.is_empty() {
                return Err(Error::new("can't handle positional and keyword arguments at the same time"));
            }
            format::percent(&text, &Value::tuple(args.positional)?)
        }
        "attr" => {
            let args = args.bind(name, ["name"])?;
            let name = args.text(0)?;
            match value {
                // Only attributes here, no keys.
                Value::Dict(dict) if dict.get_str(name.as_str()).is_some() => {
                    Ok(Value::undefined(format!("'dict object' has no attribute '{}'", name.as_str())))
                }
                other => access::attribute(other, name.as_str()),
            }
        }
        "pprint" => {
            args.none(name)?;
            let mut out = Builder::new();
            repr::write_pretty(&mut out, value, 0, 0)?;
            Ok(Value::Str(out.finish()?))
        }
        _ if sequences::is_known(name) => sequences::call(name, value, args, call),
        _ => of_text(name, value, args),
    }
}

/// Filters that make a text of whatever they get.
fn of_text(name: &str, value: &Value, args: Given) -> Result<Value> {
    let text = repr::str(value)?;
    meter::bytes(text.as_str().len())?;
    let made = match name {
        "upper" | "lower" | "capitalize" => args.none(name).and_then(|()| strings::cased(&text, name)),
        "title" => args.none(name).and_then(|()| text.derive(&title(text.as_str()))),
        "trim" => strings::strip(&text, args.bind(name, ["chars"])?.some_text(0)?, true, true),
        "replace" => {
            let args = args.bind(name, ["old", "new", "count"])?;
            strings::replace(&text, &args.as_text(0)?, &args.as_text(1)?, args.some_int(2)?.unwrap_or(-1))
        }
        "center" => strings::justify(&text, name, args.bind(name, ["width"])?.int(0, 80)?, None),
        "indent" => {
            let Value::Str(text) = value else {
                return Err(Error::new(format!("indent: expected a text, found {}", value.type_name())));
            };
            indent(text, args.bind(name, ["width", "first", "blank"])?)
        }
        "truncate" => truncate(&text, args.bind(name, ["length", "killwords", "end", "leeway"])?),
        "wordwrap" => {
            let args = args.bind(name, ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
            let width = usize::try_from(args.int(0, 79)?).unwrap_or(0);
            wrap::wrap(&text, width, args.is_true(1, true), args.some_text(2)?, args.is_true(3, true))
        }
        "escape" | "e" => args.none(name).and_then(|()| markup::escape(&text)),
        "forceescape" => args.none(name).and_then(|()| markup::force_escape(&text)),
        "safe" => args.none(name).and_then(|()| text.with_markup(true)),
        "striptags" => args.none(name).and_then(|()| markup::strip_tags(&text)),
        "urlencode" => args.none(name).and_then(|()| url_encode(value, &text)),
        "filesizeformat" => {
            let args = args.bind(name, ["binary"])?;
            let size = methods::to_float(value, &Value::None)?;
            let size = size.as_float().ok_or_else(|| Error::new("filesizeformat: expected a number"))?;
            Text::new(file_size(size, args.is_true(0, false)))
        }
        "xmlattr" => xml_attributes(value, args.bind(name, ["autospace"])?.is_true(0, true)),
        "wordcount" => {
            args.none(name)?;
            return Ok(Value::Int(word_count(text.as_str())));
        }
        _ => return Err(Error::new(format!("No filter named '{name}'."))),
    };
    made.map(Value::Str)
}

/// Runs of letters, digits and underscores.
fn word_count(text: &str) -> i64 {
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count() as i64
}

/// Words begin behind blanks, hyphens and opening brackets.
fn title(text: &str) -> String {
    let begins = |c: char| super::lexer::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    text.split_inclusive(begins)
        .map(|word| {
            let mut chars = word.chars();
            let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
            first + &chars.as_str().to_lowercase()
        })
        .collect()
}

fn indent(text: &Text, args: Bound<3>) -> Result<Text> {
    let indention = match args.value(0) {
        Some(Value::Str(indention)) => indention.clone(),
        _ => Text::new(" ".repeat(usize::try_from(args.int(0, 4)?).unwrap_or(0).min(1 << 16)))?,
    };
    let (first, blank) = (args.is_true(1, false), args.is_true(2, false));
    // A newline behind it keeps the last line, as Jinja2 does it.
    let mut whole = Builder::new();
    whole.push(text)?;
    whole.push_str("\n")?;
    whole.markup = text.is_markup();
    let text = whole.finish()?;
    let mut out = Builder::new();
    for (i, line) in strings::lines(text.as_str(), false)?.into_iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" })?;
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push(&indention)?;
        }
        out.push_part(&text, line)?;
    }
    out.markup = text.is_markup();
    out.finish()
}

fn truncate(text: &Text, args: Bound<4>) -> Result<Text> {
    let end = args.some_text(2)?.cloned().map_or_else(|| Text::new("..."), Ok)?;
    let (length, leeway) = (args.int(0, 255)?, args.some_int(3)?.unwrap_or(5));
    let n_end = end.n_chars()? as i64;
    if length < n_end || leeway < 0 {
        return Err(Error::new(format!(
            "truncate: expected length >= {n_end} and leeway >= 0, found {length}, {leeway}"
        )));
    }
    if text.n_chars()? as i64 <= length.saturating_add(leeway) {
        return Ok(text.clone());
    }
    let mut cut = text.byte_of((length - n_end) as usize);
    if !args.is_true(1, false) {
        cut = text.as_str()[..cut].rfind(' ').unwrap_or(cut);
    }
    let mut out = Builder::new();
    out.push_part(text, 0..cut)?;
    out.push(&end)?;
    out.finish()
}

fn numeric(name: &str, value: &Value, args: Given) -> Result<Value> {
    if let Value::Undefined(message) = value {
        return Err(Error::new(&**message));
    }
    let wrong = || Error::new(format!("{name}: expected a number, found {}", value.type_name()));
    if name == "abs" {
        args.none(name)?;
        return match value {
            Value::Float(x) => Ok(Value::Float(x.abs())),
            other => Ok(Value::Int(other.as_int().ok_or_else(wrong)?.saturating_abs())),
        };
    }
    let args = args.bind(name, ["precision", "method"])?;
    let precision = args.some_int(0)?.unwrap_or(0).clamp(-400, 400);
    let unit = 10f64.powi(precision as i32);
    let x = value.as_float().ok_or_else(wrong)?;
    match args.some_text(1)?.map_or("common", Text::as_str) {
        "common" => match value.as_int() {
            Some(n) => Ok(Value::Int(number::round_int(n, precision))),
            None => Ok(Value::Float(number::round(x, precision))),
        },
        "ceil" => Ok(Value::Float((x * unit).ceil() / unit)),
        "floor" => Ok(Value::Float((x * unit).floor() / unit)),
        _ => Err(Error::new("method must be common, ceil or floor")),
    }
}

/// `json.dumps`: the first argument by place is `ensure_ascii`, as in transformers.
fn to_json(value: &Value, args: Bound<4>) -> Result<Value> {
    let indent = match args.some(1) {
        None => None,
        Some(Value::Str(indent)) => Some(indent.clone()),
        Some(_) => Some(Text::new(" ".repeat(usize::try_from(args.int(1, 0)?).unwrap_or(0).min(1 << 10)))?),
    };
    let (item, key) = match args.some(2) {
        None => (Text::new(if indent.is_some() { "," } else { ", " })?, Text::new(": ")?),
        Some(separators) => match access::iterate(separators)?.items() {
            [Value::Str(item), Value::Str(key)] => (item.clone(), key.clone()),
            _ => return Err(Error::new("tojson: 'separators': expected two texts")),
        },
    };
    let style =
        json::Style { ensure_ascii: args.is_true(0, false), indent, item, key, sort_keys: args.is_true(3, false) };
    let mut out = Builder::new();
    json::write(&mut out, value, &style, 0)?;
    Ok(Value::Str(out.finish()?))
}

fn file_size(size: f64, binary: bool) -> String {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if size == 1.0 {
        return "1 Byte".to_owned();
    }
    if size < base {
        return format!("{} Bytes", size.trunc());
    }
    let units = if binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    let i = (0..7).find(|&i| size < base.powi(i + 2)).unwrap_or(7);
    format!("{:.1} {}", base * size / base.powi(i + 2), units[i as usize])
}

fn url_encode(value: &Value, text: &Text) -> Result<Text> {
    let pairs = match value {
        Value::Dict(_) => access::pairs(value, Kind::Items)?,
        Value::Seq(_) => value.clone(),
        _ => return text.map_runs(|run| url_quote(run, "/")),
    };
    let mut out = Builder::new();
    for (i, pair) in access::iterate(&pairs)?.items().iter().enumerate() {
        let pair = access::iterate(pair)?;
        let [key, value] = pair.items() else { return Err(Error::new("urlencode: expected pairs")) };
        out.push_str(if i > 0 { "&" } else { "" })?;
        let quote = |value: &Value| repr::str(value)?.map_runs(|run| url_quote(run, "").replace("%20", "+"));
        out.push(&quote(key)?)?;
        out.push_str("=")?;
        out.push(&quote(value)?)?;
    }
    out.finish()
}

fn url_quote(text: &str, safe: &str) -> String {
    let quote = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || b"_.-~".contains(&b) || safe.as_bytes().contains(&b) => {
            char::from(b).to_string()
        }
        b => format!("%{b:02X}"),
    };
    text.bytes().map(quote).collect()
}

fn xml_attributes(value: &Value, auto_space: bool) -> Result<Text> {
    let Value::Dict(dict) = value else { return Err(Error::new("xmlattr: expected a mapping")) };
    let mut out = Builder::new();
    for (key, value) in dict.entries.values() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = repr::str(key)?;
        if key.as_str().contains(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '=')) {
            return Err(Error::new(format!("Invalid character in attribute name: '{}'", key.as_str())));
        }
        out.push_str(if out.len() > 0 || auto_space { " " } else { "" })?;
        out.push(&markup::escape(&key)?)?;
        out.push_str("=\"")?;
        out.push(&markup::escape_value(value)?)?;
        out.push_str("\"")?;
    }
    out.finish()
}
