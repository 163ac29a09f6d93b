//! Owns Python's methods of text.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::args::{Bound, Given};
use super::lexer::is_space;
use super::repr::is_printable;
use super::text::{Builder, Text};
use super::value::Value;
use super::{Error, Result, access, format, meter};

/// Bytes that a part of a text takes while parts are being found.
const PART: usize = 40;

/// `text.name(...)`.
pub(super) fn call(text: &Text, name: &str, args: Given) -> Result<Value> {
    let s = text.as_str();
    meter::bytes(s.len())?;
    match name {
        "upper" | "lower" | "capitalize" | "title" | "swapcase" | "casefold" => {
            args.none(name)?;
            Ok(Value::Str(cased(text, name)?))
        }
        "strip" | "lstrip" | "rstrip" => {
            let args = args.bind(name, ["chars"])?;
            Ok(Value::Str(strip(text, args.some_text(0)?, name != "rstrip", name != "lstrip")?))
        }
        "split" | "rsplit" => split(text, args.bind(name, ["sep", "maxsplit"])?, name == "rsplit"),
        "splitlines" => {
            let args = args.bind(name, ["keepends"])?;
            parts(text, lines(s, args.is_true(0, false))?)
        }
        "partition" | "rpartition" => partition(text, args.bind(name, ["sep"])?.text(0)?, name == "rpartition"),
        "startswith" | "endswith" => ends(text, args.bind(name, ["prefix", "start", "end"])?, name == "endswith"),
        "removeprefix" => {
            let args = args.bind(name, ["prefix"])?;
            let rest = s.strip_prefix(args.text(0)?.as_str()).unwrap_or(s);
            Ok(Value::Str(text.slice(s.len() - rest.len()..s.len())?))
        }
        "removesuffix" => {
            let args = args.bind(name, ["suffix"])?;
            let rest = s.strip_suffix(args.text(0)?.as_str()).unwrap_or(s);
            Ok(Value::Str(text.slice(0..rest.len())?))
        }
        "find" | "rfind" | "index" | "rindex" => find(text, args.bind(name, ["sub", "start", "end"])?, name),
        "count" => count(text, args.bind(name, ["sub", "start", "end"])?),
        "replace" => {
            let args = args.bind(name, ["old", "new", "count"])?;
            Ok(Value::Str(replace(text, args.text(0)?, args.text(1)?, args.int(2, -1)?)?))
        }
        "join" => join(text, args.bind(name, ["iterable"])?.need(0)?),
        "center" | "ljust" | "rjust" => {
            let args = args.bind(name, ["width", "fillchar"])?;
            args.need(0)?;
            Ok(Value::Str(justify(text, name, args.int(0, 0)?, args.some_text(1)?)?))
        }
        "zfill" => {
            let args = args.bind(name, ["width"])?;
            args.need(0)?;
            zfill(text, args.int(0, 0)?)
        }
        "expandtabs" => expand_tabs(text, args.bind(name, ["tabsize"])?.int(0, 8)?),
        "format" => {
            let named = args.named_dict()?.into_value();
            format::str_format(text, &args.positional, &named)
        }
        "format_map" => format::str_format(text, &[], args.bind(name, ["mapping"])?.need(0)?),
        _ if name.starts_with("is") => {
            args.none(name)?;
            Ok(Value::Bool(is(s, name)?))
        }
        _ => Err(Error::new(format!("'str object' has no attribute '{name}'"))),
    }
}

fn count(text: &Text, args: Bound<3>) -> Result<Value> {
    let Some(range) = window(text, &args)? else { return Ok(Value::Int(0)) };
    Ok(Value::Int(text.as_str()[range].matches(args.text(0)?.as_str()).count() as i64))
}

/// Another case; a part of the text keeps its origin where the case of a letter depends on no other.
pub(super) fn cased(text: &Text, name: &str) -> Result<Text> {
    match name {
        "upper" => text.map_runs(str::to_uppercase),
        "lower" => text.map_runs(str::to_lowercase),
        "casefold" => text.map_runs(|run| run.chars().map(fold).collect()),
        "swapcase" => text.map_runs(|run| run.chars().map(swap).collect()),
        "capitalize" => text.derive(&capitalize(text.as_str())),
        _ => text.derive(&title(text.as_str())),
    }
}

fn fold(c: char) -> String {
    // Dotless i is its own capital's exception.
    if c == 'ı' { c.to_string() } else { c.to_uppercase().collect::<String>().to_lowercase() }
}

fn swap(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// The first letter large, the others small.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    // A letter whose capital is two letters (ß) has only the first of them large.
    let mut capital = first.to_uppercase();
    let first: String = capital.next().into_iter().chain(capital.flat_map(char::to_lowercase)).collect();
    first + &chars.as_str().to_lowercase()
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        match is_cased(c) {
            true => word.push(c),
            false => {
                out.push_str(&capitalize(&std::mem::take(&mut word)));
                out.push(c);
            }
        }
    }
    out + &capitalize(&word)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// Without white space, or these characters, at its ends.
pub(super) fn strip(text: &Text, chars: Option<&Text>, start: bool, end: bool) -> Result<Text> {
    let s = text.as_str();
    let set = chars.map_or("", Text::as_str);
    meter::work(s.len() / 16 * (1 + set.len() / 16))?;
    let goes = |c: char| if chars.is_some() { set.contains(c) } else { is_space(c) };
    let from = if start { s.len() - s.trim_start_matches(goes).len() } else { 0 };
    let kept = if end { s[from..].trim_end_matches(goes) } else { &s[from..] };
    text.slice(from..from + kept.len())
}

/// A list of these parts.
fn parts(text: &Text, ranges: Vec<Range<usize>>) -> Result<Value> {
    let parts = ranges.into_iter().map(|range| Ok(Value::Str(text.slice(range)?)));
    Value::list(parts.collect::<Result<_>>()?)
}

fn split(text: &Text, args: Bound<2>, from_right: bool) -> Result<Value> {
    let limit = usize::try_from(args.int(1, -1)?).unwrap_or(usize::MAX);
    let s = text.as_str();
    let ranges = match args.some_text(0)? {
        None => words(s, limit, from_right)?,
        Some(separator) if separator.as_str().is_empty() => return Err(Error::new("empty separator")),
        Some(separator) => {
            let n = separator.as_str().len();
            let mut found = match from_right {
                true => collected(s.rmatch_indices(separator.as_str()).take(limit))?,
                false => collected(s.match_indices(separator.as_str()).take(limit))?,
            };
            if from_right {
                found.reverse();
            }
            between(&found, n, s.len())
        }
    };
    meter::work(8 * ranges.len())?;
    parts(text, ranges)
}

/// The places of matches, counted while they are found.
fn collected<'s>(found: impl Iterator<Item = (usize, &'s str)>) -> Result<Vec<usize>> {
    let mut charge = meter::Charge::default();
    found.map(|(at, _)| charge.grow(PART).map(|()| at)).collect()
}

/// What lies between separators of `n` bytes.
fn between(separators: &[usize], n: usize, end: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(separators.iter().map(|at| at + n));
    starts.zip(separators.iter().copied().chain(std::iter::once(end))).map(|(start, end)| start..end).collect()
}

/// Words between white space; what is left after `limit` of them is one part.
fn words(s: &str, limit: usize, from_right: bool) -> Result<Vec<Range<usize>>> {
    let (mut start, mut end) = (s.len() - s.trim_start_matches(is_space).len(), s.trim_end_matches(is_space).len());
    let (mut ranges, mut charge) = (Vec::new(), meter::Charge::default());
    while start < end {
        charge.grow(PART)?;
        let rest = &s[start..end];
        if ranges.len() == limit {
            // Only the side that was split is stripped.
            ranges.push(if from_right { 0..end } else { start..s.len() });
            break;
        }
        if from_right {
            let at = rest
                .rfind(is_space)
                .map_or(start, |at| start + at + rest[at..].chars().next().map_or(1, char::len_utf8));
            ranges.push(at..end);
            end = start + s[start..at].trim_end_matches(is_space).len();
        } else {
            let at = rest.find(is_space).map_or(end, |at| start + at);
            ranges.push(start..at);
            start = end - s[at..end].trim_start_matches(is_space).len();
        }
    }
    if from_right {
        ranges.reverse();
    }
    Ok(ranges)
}

/// The lines of a text by Python's rules, with their ends or without.
pub(super) fn lines(s: &str, keep_ends: bool) -> Result<Vec<Range<usize>>> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let (mut lines, mut charge) = (Vec::new(), meter::Charge::default());
    let mut at = 0;
    while at < s.len() {
        charge.grow(PART)?;
        let rest = &s[at..];
        let text = rest.find(is_end).unwrap_or(rest.len());
        let end = match &rest[text..] {
            tail if tail.starts_with("\r\n") => 2,
            tail => tail.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(at..at + text + if keep_ends { end } else { 0 });
        at += text + end;
    }
    Ok(lines)
}

fn partition(text: &Text, separator: &Text, last: bool) -> Result<Value> {
    let (s, n) = (text.as_str(), separator.as_str().len());
    if n == 0 {
        return Err(Error::new("empty separator"));
    }
    let found = if last { s.rfind(separator.as_str()) } else { s.find(separator.as_str()) };
    let [first, middle, end] = match found {
        Some(at) => [0..at, at..at + n, at + n..s.len()],
        None if last => [0..0, 0..0, 0..s.len()],
        None => [0..s.len(), 0..0, 0..0],
    };
    let part = |range| Ok(Value::Str(text.slice(range)?));
    Value::tuple(vec![part(first)?, part(middle)?, part(end)?])
}

/// The part that `start` and `end` of a call leave; `None` where it begins behind its end.
fn window(text: &Text, args: &Bound<3>) -> Result<Option<Range<usize>>> {
    let n = text.n_chars()? as i64;
    let place = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(at) if at < 0 => (at + n).max(0),
        Some(at) => at,
    };
    let (start, end) = (place(args.some_int(1)?, 0), place(args.some_int(2)?, n).min(n));
    Ok((start <= end).then(|| text.byte_of(start as usize)..text.byte_of(end as usize)))
}

fn ends(text: &Text, args: Bound<3>, at_end: bool) -> Result<Value> {
    let Some(range) = window(text, &args)? else { return Ok(Value::Bool(false)) };
    let part = &text.as_str()[range];
    let has = |affix: &Value| match affix {
        Value::Str(affix) if at_end => Ok(part.ends_with(affix.as_str())),
        Value::Str(affix) => Ok(part.starts_with(affix.as_str())),
        other => {
            let name = if at_end { "endswith" } else { "startswith" };
            let found = other.type_name();
            Err(Error::new(format!("{name} first arg must be str or a tuple of str, not {found}")))
        }
    };
    match args.need(0)? {
        Value::Seq(seq) if seq.kind == super::value::Kind::Tuple => {
            for affix in seq.items() {
                meter::work(1)?;
                if has(affix)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        affix => Ok(Value::Bool(has(affix)?)),
    }
}

fn find(text: &Text, args: Bound<3>, name: &str) -> Result<Value> {
    let part = args.text(0)?.as_str();
    let found = window(text, &args)?.and_then(|range| {
        let within = &text.as_str()[range.clone()];
        let at = if name.starts_with('r') { within.rfind(part) } else { within.find(part) };
        at.map(|at| range.start + at)
    });
    match found {
        Some(at) => Ok(Value::Int(text.as_str()[..at].chars().count() as i64)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Error::new("substring not found")),
    }
}

/// With the first `count` of `old` replaced; all of them if it is negative.
pub(super) fn replace(text: &Text, old: &Text, new: &Text, count: i64) -> Result<Text> {
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = Builder::new();
    let mut at = 0;
    // An empty part stands around every character, as in Python.
    for (found, _) in text.as_str().match_indices(old.as_str()).take(limit) {
        out.push_part(text, at..found)?;
        out.push(new)?;
        at = found + old.as_str().len();
    }
    out.push_part(text, at..text.as_str().len())?;
    out.markup = text.is_markup();
    out.finish()
}

fn join(separator: &Text, items: &Value) -> Result<Value> {
    let mut out = Builder::new();
    for (i, item) in access::iterate(items)?.items().iter().enumerate() {
        let Value::Str(item) = item else {
            let found = item.type_name();
            return Err(Error::new(format!("sequence item {i}: expected str instance, {found} found")));
        };
        if i > 0 {
            out.push(separator)?;
        }
        out.push(item)?;
    }
    out.markup = separator.is_markup();
    Ok(Value::Str(out.finish()?))
}

/// Padded to a width.
pub(super) fn justify(text: &Text, name: &str, width: i64, fill: Option<&Text>) -> Result<Text> {
    let fill = fill.map_or(" ", Text::as_str);
    if fill.chars().count() != 1 {
        return Err(Error::new("The fill character must be exactly one character long"));
    }
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(text.n_chars()?);
    let before = match name {
        "ljust" => 0,
        "rjust" => missing,
        // Python's odd blank goes to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let mut out = Builder::new();
    out.repeat(fill, before)?;
    out.push(text)?;
    out.repeat(fill, missing - before)?;
    out.markup = text.is_markup();
    out.finish()
}

fn zfill(text: &Text, width: i64) -> Result<Value> {
    let s = text.as_str();
    let sign = usize::from(s.starts_with(['+', '-']));
    let mut out = Builder::new();
    out.push_part(text, 0..sign)?;
    out.repeat("0", usize::try_from(width).unwrap_or(0).saturating_sub(text.n_chars()?))?;
    out.push_part(text, sign..s.len())?;
    Ok(Value::Str(out.finish()?))
}

fn expand_tabs(text: &Text, size: i64) -> Result<Value> {
    let size = usize::try_from(size).unwrap_or(0);
    let mut out = Builder::new();
    let (mut column, mut at) = (0usize, 0);
    for (i, c) in text.as_str().char_indices() {
        match c {
            '\t' => {
                out.push_part(text, at..i)?;
                let n = if size == 0 { 0 } else { size - column % size };
                out.repeat(" ", n)?;
                column += n;
                at = i + 1;
            }
            '\n' | '\r' => column = 0,
            _ => column += 1,
        }
    }
    out.push_part(text, at..text.as_str().len())?;
    Ok(Value::Str(out.finish()?))
}

/// Python's `is...` of a text.
pub(super) fn is(s: &str, name: &str) -> Result<bool> {
    // A character outside of ASCII is looked up in a table.
    meter::work(if s.is_ascii() { s.len() / 8 } else { s.len() })?;
    Ok(has_class(s, name))
}

fn has_class(s: &str, name: &str) -> bool {
    let all = |is: &dyn Fn(char) -> bool| !s.is_empty() && s.chars().all(is);
    match name {
        "isascii" => s.is_ascii(),
        "isprintable" => s.chars().all(is_printable),
        "isspace" => all(&is_space),
        "isalpha" => all(&is_alpha),
        "isalnum" => all(&|c| is_alpha(c) || is_numeric(c)),
        "isdecimal" => all(&is_decimal),
        "isdigit" => all(&|c| is_decimal(c) || (!c.is_ascii() && in_class(c, &DIGIT))),
        "isnumeric" => all(&is_numeric),
        "islower" => s.chars().any(is_cased) && !s.chars().any(char::is_uppercase),
        "isupper" => s.chars().any(is_cased) && !s.chars().any(char::is_lowercase),
        "istitle" => s.chars().any(is_cased) && is_title(s),
        "isidentifier" => {
            let starts = |c: char| c == '_' || is_alpha(c);
            s.starts_with(starts) && s.chars().all(|c| starts(c) || is_decimal(c))
        }
        _ => false,
    }
}

fn is_title(s: &str) -> bool {
    let mut after_cased = false;
    s.chars().all(|c| {
        let fits = !is_cased(c) || c.is_lowercase() == after_cased;
        after_cased = is_cased(c);
        fits
    })
}

type Class = LazyLock<Regex>;

static ALPHA: Class = LazyLock::new(|| class(r"^\p{L}$"));
static DECIMAL: Class = LazyLock::new(|| class(r"^\p{Nd}$"));
static NUMBER: Class = LazyLock::new(|| class(r"^\p{N}$"));
/// Digits that stand for themselves only: superscripts, subscripts, circled ones.
static DIGIT: Class = LazyLock::new(|| {
    class(
        r"^[\u{B2}\u{B3}\u{B9}\u{2070}\u{2074}-\u{2079}\u{2080}-\u{2089}\u{2460}-\u{2468}\u{2474}-\u{247C}\u{2488}-\u{2490}]$",
    )
});

fn class(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{e}"))
}

fn in_class(c: char, class: &Class) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4]))
}

fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic() || (!c.is_ascii() && in_class(c, &ALPHA))
}

fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && in_class(c, &DECIMAL))
}

fn is_numeric(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    // Ideographs that are numbers.
    in_class(c, &NUMBER) || "一二三四五六七八九十百千万億〇零".contains(c)
}
