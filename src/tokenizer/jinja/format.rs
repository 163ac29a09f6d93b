//! Owns Python's `%` on text, `str.format`, and the format specifications of the latter.

use super::number::{self, MAX_PRECISION};
use super::text::{Builder, Text};
use super::value::{Kind, Value};
use super::{Error, Result, access, markup, meter, repr};

/// Columns that a format may ask for.
const MAX_WIDTH: usize = 1 << 20;

/// What stands between a sign of a format and its letter.
#[derive(Clone, Copy, Default)]
struct Flags {
    left: bool,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Gives the values of `%` one after the other, or by name.
struct Values<'v> {
    whole: &'v Value,
    at: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        self.at += 1;
        let found = match self.whole {
            Value::Seq(seq) if matches!(seq.kind, Kind::Tuple | Kind::Group) => seq.items().get(self.at - 1).cloned(),
            other => (self.at == 1).then(|| other.clone()),
        };
        found.ok_or_else(|| Error::new("not enough arguments for format string"))
    }

    fn named(&self, name: &str) -> Result<Value> {
        match self.whole {
            Value::Dict(dict) => dict.get_str(name).cloned().ok_or_else(|| Error::new(format!("KeyError: '{name}'"))),
            _ => Err(Error::new("format requires a mapping")),
        }
    }

    fn check_all_used(&self) -> Result<()> {
        let n = match self.whole {
            Value::Seq(seq) if matches!(seq.kind, Kind::Tuple | Kind::Group) => seq.items().len(),
            Value::Dict(_) | Value::Seq(_) => 0,
            _ => 1,
        };
        if self.at < n {
            return Err(Error::new("not all arguments converted during string formatting"));
        }
        Ok(())
    }
}

/// `text % values`.
pub(super) fn percent(text: &Text, values: &Value) -> Result<Value> {
    let source = text.as_str();
    let mut values = Values { whole: values, at: 0 };
    let mut out = Builder::new();
    let mut at = 0;
    while let Some(found) = source[at..].find('%') {
        out.push_part(text, at..at + found)?;
        meter::work(1)?;
        at += found + 1;
        at = conversion(source, at, &mut values, text.is_markup(), &mut out)?;
    }
    out.push_part(text, at..source.len())?;
    values.check_all_used()?;
    out.markup = text.is_markup();
    Ok(Value::Str(out.finish()?))
}

/// One conversion, behind its `%`; where it ends.
fn conversion(source: &str, mut at: usize, values: &mut Values<'_>, escapes: bool, out: &mut Builder) -> Result<usize> {
    let mut named = None;
    if let Some(rest) = source[at..].strip_prefix('(') {
        let end = rest.find(')').ok_or_else(|| Error::new("incomplete format key"))?;
        named = Some(values.named(&rest[..end])?);
        at += end + 2;
    }
    let (flags, after) = percent_flags(source, at, values)?;
    at = after;
    let kind = source[at..].chars().next().ok_or_else(|| Error::new("incomplete format"))?;
    at += kind.len_utf8();
    if kind == '%' {
        out.push_str("%")?;
        return Ok(at);
    }
    let value = match named {
        Some(value) => value,
        None => values.next()?,
    };
    converted(&value, kind, flags, escapes, out)?;
    Ok(at)
}

fn percent_flags(source: &str, mut at: usize, values: &mut Values<'_>) -> Result<(Flags, usize)> {
    let mut flags = Flags::default();
    loop {
        match source.as_bytes().get(at) {
            Some(b'-') => flags.left = true,
            Some(b'+') => flags.sign = Some('+'),
            Some(b' ') => flags.sign = flags.sign.or(Some(' ')),
            Some(b'0') => flags.zero = true,
            Some(b'#') => flags.alternate = true,
            _ => break,
        }
        at += 1;
    }
    let mut size = |at: &mut usize| -> Result<Option<i64>> {
        if source.as_bytes().get(*at) == Some(&b'*') {
            *at += 1;
            return values.next()?.as_int().map(Some).ok_or_else(|| Error::new("* wants int"));
        }
        let digits = source[*at..].bytes().take_while(u8::is_ascii_digit).count();
        let n = source[*at..*at + digits].parse().ok();
        *at += digits;
        Ok(if digits == 0 { None } else { Some(n.unwrap_or(i64::MAX)) })
    };
    let width = size(&mut at)?.unwrap_or(0);
    flags.left |= width < 0;
    flags.width = checked_size(width.unsigned_abs() as usize, MAX_WIDTH)?;
    if source.as_bytes().get(at) == Some(&b'.') {
        at += 1;
        flags.precision = Some(size(&mut at)?.unwrap_or(0).max(0) as usize);
    }
    at += source[at..].bytes().take_while(|b| matches!(b, b'h' | b'l' | b'L')).count();
    Ok((flags, at))
}

fn checked_size(n: usize, limit: usize) -> Result<usize> {
    if n > limit { Err(Error::new(format!("a format asks for {n} columns, at most {limit}"))) } else { Ok(n) }
}

fn converted(value: &Value, kind: char, flags: Flags, escapes: bool, out: &mut Builder) -> Result<()> {
    let text = match kind {
        's' if escapes => markup::escape_value(value)?,
        's' => repr::str(value)?,
        'r' | 'a' => represented(value, kind == 'a')?,
        'c' => match (value.as_int(), value) {
            (Some(code), _) => {
                let c = u32::try_from(code).ok().and_then(char::from_u32);
                Text::new(c.ok_or_else(|| Error::new("%c arg not in range(0x110000)"))?.to_string())?
            }
            (None, Value::Str(text)) if text.n_chars()? == 1 => text.clone(),
            _ => return Err(Error::new("%c requires int or char")),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let n = match value {
                Value::Float(x) if matches!(kind, 'd' | 'i' | 'u') => number::truncate(*x),
                other => other.as_int(),
            };
            let Some(n) = n else { return Err(wants_number(kind, value)) };
            return push_number(out, n < 0, &integer_digits(n, kind, flags), flags);
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let Some(x) = value.as_float() else { return Err(wants_number('f', value)) };
            let precision = checked_size(flags.precision.unwrap_or(6), MAX_PRECISION)?;
            let digits = number::format_float(x, kind, precision, flags.alternate);
            return push_number(out, x.is_sign_negative() && !x.is_nan(), &digits, flags);
        }
        _ => return Err(Error::new(format!("unsupported format character '{kind}' (0x{:x})", kind as u32))),
    };
    let text = match flags.precision {
        Some(n) => text.slice(0..text.byte_of(n))?,
        None => text,
    };
    let missing = flags.width.saturating_sub(text.n_chars()?);
    out.repeat(" ", if flags.left { 0 } else { missing })?;
    out.push(&text)?;
    out.repeat(" ", if flags.left { missing } else { 0 })
}

fn wants_number(kind: char, value: &Value) -> Error {
    if let Value::Undefined(message) = value {
        return Error::new(&**message);
    }
    let what =
        if kind == 'f' { "must be real number".to_owned() } else { format!("%{kind} format: a number is required") };
    Error::new(format!("{what}, not {}", value.type_name()))
}

fn integer_digits(n: i64, kind: char, flags: Flags) -> String {
    let n = n.unsigned_abs();
    let digits = match kind {
        'x' => format!("{n:x}"),
        'X' => format!("{n:X}"),
        'o' => format!("{n:o}"),
        'b' => format!("{n:b}"),
        _ => n.to_string(),
    };
    let digits = format!("{digits:0>width$}", width = flags.precision.unwrap_or(0).min(MAX_PRECISION));
    match kind {
        'x' | 'X' | 'o' | 'b' if flags.alternate => format!("0{kind}{digits}"),
        _ => digits,
    }
}

/// A number with its sign, padded by the rules of `%`.
fn push_number(out: &mut Builder, negative: bool, digits: &str, flags: Flags) -> Result<()> {
    let sign = if negative { "-".to_owned() } else { flags.sign.map_or(String::new(), String::from) };
    let missing = flags.width.saturating_sub(sign.len() + digits.len());
    let zeros = flags.zero && !flags.left;
    out.repeat(" ", if zeros || flags.left { 0 } else { missing })?;
    out.push_str(&sign)?;
    let prefix = if digits.starts_with("0x") || digits.starts_with("0X") || digits.starts_with("0o") { 2 } else { 0 };
    out.push_str(&digits[..prefix])?;
    out.repeat("0", if zeros { missing } else { 0 })?;
    out.push_str(&digits[prefix..])?;
    out.repeat(" ", if flags.left { missing } else { 0 })
}

fn represented(value: &Value, ascii: bool) -> Result<Text> {
    let mut out = Builder::new();
    repr::write_repr(&mut out, value)?;
    let text = out.finish()?;
    if !ascii {
        return Ok(text);
    }
    text.map_runs(|run| {
        let escaped = |c: char| match c as u32 {
            0..0x80 => c.to_string(),
            code @ 0x80..0x100 => format!("\\x{code:02x}"),
            code @ 0x100..0x10000 => format!("\\u{code:04x}"),
            code => format!("\\U{code:08x}"),
        };
        run.chars().map(escaped).collect()
    })
}

/// `text.format(*positional, **named)`.
pub(super) fn str_format(text: &Text, positional: &[Value], named: &Value) -> Result<Value> {
    let mut fields = Fields { positional, named, next: Some(0) };
    let mut out = Builder::new();
    fields.write(text, &mut out, 2)?;
    out.markup = text.is_markup();
    Ok(Value::Str(out.finish()?))
}

struct Fields<'v> {
    positional: &'v [Value],
    named: &'v Value,
    /// The next place without a number; `None` once places are numbered.
    next: Option<usize>,
}

impl Fields<'_> {
    /// Writes the text with its fields, which may have fields in their specifications, `depth` deep.
    fn write(&mut self, text: &Text, out: &mut Builder, depth: usize) -> Result<()> {
        let source = text.as_str();
        let mut at = 0;
        while let Some(found) = source[at..].find(['{', '}']) {
            out.push_part(text, at..at + found)?;
            meter::work(1)?;
            at += found;
            let brace = &source[at..=at];
            if source[at + 1..].starts_with(brace) {
                out.push_str(brace)?;
                at += 2;
                continue;
            }
            if brace == "}" {
                return Err(Error::new("Single '}' encountered in format string"));
            }
            let end = field_end(&source[at..]).ok_or_else(|| Error::new("expected '}' before end of string"))?;
            if depth == 0 {
                return Err(Error::new("Max string recursion exceeded"));
            }
            self.field(text, at + 1..at + end, out, depth)?;
            at += end + 1;
        }
        out.push_part(text, at..source.len())
    }

    fn field(&mut self, text: &Text, range: std::ops::Range<usize>, out: &mut Builder, depth: usize) -> Result<()> {
        let field = &text.as_str()[range.clone()];
        let name_end = name_end(field);
        let value = self.value(&field[..name_end])?;
        let mut rest = &field[name_end..];
        let mut value = value;
        if let Some(conversion) = rest.strip_prefix('!') {
            let kind = conversion.chars().next().unwrap_or(' ');
            value = match kind {
                's' => Value::Str(repr::str(&value)?),
                'r' | 'a' => Value::Str(represented(&value, kind == 'a')?),
                _ => return Err(Error::new(format!("Unknown conversion specifier {kind:?}"))),
            };
            rest = &conversion[kind.len_utf8()..];
        }
        let spec = match rest.strip_prefix(':') {
            Some(spec) => text.slice(range.end - spec.len()..range.end)?,
            None if rest.is_empty() => Text::new("")?,
            None => return Err(Error::new("expected ':' after conversion specifier")),
        };
        let mut written = Builder::new();
        self.write(&spec, &mut written, depth - 1)?;
        format_value(&value, written.finish()?.as_str(), text.is_markup(), out)
    }

    fn value(&mut self, name: &str) -> Result<Value> {
        let first = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(first);
        let mut value = if first.is_empty() {
            let at = self.next.ok_or_else(|| {
                Error::new("cannot switch from manual field specification to automatic field numbering")
            })?;
            self.next = Some(at + 1);
            self.at(at)?
        } else if let Ok(at) = first.parse() {
            if self.next.is_some_and(|next| next > 0) {
                return Err(Error::new("cannot switch from automatic field numbering to manual field specification"));
            }
            self.next = None;
            self.at(at)?
        } else {
            access_named(self.named, first)?
        };
        while !rest.is_empty() {
            meter::work(1)?;
            if let Some(name) = rest.strip_prefix('.') {
                let end = name.find(['.', '[']).unwrap_or(name.len());
                value = access::attribute(&value, &name[..end])?;
                rest = &name[end..];
            } else {
                let key = rest.strip_prefix('[').and_then(|key| key.split_once(']'));
                let (key, after) = key.ok_or_else(|| Error::new("Missing ']' in format string"))?;
                let place = key.parse().map(Value::Int);
                value = access::item(&value, &place.or_else(|_| Value::text(key))?)?;
                rest = after;
            }
        }
        Ok(value)
    }

    fn at(&self, at: usize) -> Result<Value> {
        let found = self.positional.get(at).cloned();
        found.ok_or_else(|| Error::new(format!("Replacement index {at} out of range for positional args tuple")))
    }
}

fn access_named(named: &Value, name: &str) -> Result<Value> {
    match named {
        Value::Dict(dict) => dict.get_str(name).cloned().ok_or_else(|| Error::new(format!("KeyError: '{name}'"))),
        _ => Err(Error::new("format_map() takes a mapping")),
    }
}

/// The length of a field up to its closing brace.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'{' => open += 1,
            b'}' if open == 1 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// Where the name of a field ends: at `!` or `:` outside of brackets.
fn name_end(field: &str) -> usize {
    let mut in_brackets = false;
    for (at, b) in field.bytes().enumerate() {
        match b {
            b'[' => in_brackets = true,
            b']' => in_brackets = false,
            b'!' | b':' if !in_brackets => return at,
            _ => {}
        }
    }
    field.len()
}

/// A format specification.
struct Spec {
    fill: char,
    align: Option<char>,
    flags: Flags,
    group: Option<char>,
    kind: Option<char>,
}

fn parse_spec(text: &str) -> Result<Spec> {
    let mut chars = text.chars().peekable();
    let mut spec = Spec { fill: ' ', align: None, flags: Flags::default(), group: None, kind: None };
    let is_align = |c: char| matches!(c, '<' | '>' | '^' | '=');
    let second = text.chars().nth(1);
    if second.is_some_and(is_align) {
        spec.fill = chars.next().unwrap_or(' ');
        spec.align = chars.next();
    } else if text.starts_with(is_align) {
        spec.align = chars.next();
    }
    spec.flags.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    chars.next_if_eq(&'z');
    spec.flags.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() {
        spec.flags.zero = true;
        if !second.is_some_and(is_align) {
            spec.fill = '0';
        }
    }
    let size = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        let mut n: Option<usize> = None;
        while let Some(c) = chars.next_if(char::is_ascii_digit) {
            n = Some(n.unwrap_or(0).saturating_mul(10).saturating_add(c as usize - '0' as usize));
        }
        n
    };
    spec.flags.width = checked_size(size(&mut chars).unwrap_or(0), MAX_WIDTH)?;
    spec.group = chars.next_if(|c| matches!(c, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        spec.flags.precision = Some(size(&mut chars).ok_or_else(|| Error::new("Format specifier missing precision"))?);
    }
    spec.kind = chars.next();
    if chars.next().is_some() {
        return Err(Error::new(format!("Invalid format specifier '{text}'")));
    }
    Ok(spec)
}

fn format_value(value: &Value, spec: &str, escapes: bool, out: &mut Builder) -> Result<()> {
    let as_text = |value: &Value| if escapes { markup::escape_value(value) } else { repr::str(value) };
    if spec.is_empty() {
        return out.push(&as_text(value)?);
    }
    let parsed = parse_spec(spec)?;
    match (value, parsed.kind) {
        (Value::Str(_), None | Some('s')) => format_text(&as_text(value)?, &parsed, out),
        (Value::Bool(_), None) => format_text(&as_text(value)?, &parsed, out),
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n' | 'c')) => {
            let n = value.as_int().unwrap_or(0);
            if parsed.kind == Some('c') {
                let c = u32::try_from(n).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
                return format_text(&Text::new(c.to_string())?, &parsed, out);
            }
            let plain = Flags { precision: None, ..parsed.flags };
            format_number(&integer_digits(n, parsed.kind.unwrap_or('d'), plain), n < 0, &parsed, out)
        }
        (Value::Int(_) | Value::Bool(_) | Value::Float(_), kind) => {
            let x = value.as_float().unwrap_or(0.0);
            format_number(&float_digits(x, kind, parsed.flags)?, x.is_sign_negative() && !x.is_nan(), &parsed, out)
        }
        (Value::Undefined(message), _) => Err(Error::new(&**message)),
        (other, _) => Err(Error::new(format!("unsupported format string passed to {}.__format__", other.type_name()))),
    }
}

fn float_digits(x: f64, kind: Option<char>, flags: Flags) -> Result<String> {
    let precision = checked_size(flags.precision.unwrap_or(6), MAX_PRECISION)?;
    match kind {
        Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            Ok(number::format_float(x, kind, precision, flags.alternate))
        }
        Some('n') => Ok(number::format_float(x, 'g', precision, flags.alternate)),
        None if flags.precision.is_none() => Ok(repr::float(x.abs())),
        None => {
            let text = number::format_float(x, 'g', precision, flags.alternate);
            Ok(if text.contains(['.', 'e', 'n', 'i']) { text } else { text + ".0" })
        }
        Some(kind) => Err(Error::new(format!("Unknown format code '{kind}' for object of type 'float'"))),
    }
}

fn format_text(text: &Text, spec: &Spec, out: &mut Builder) -> Result<()> {
    if spec.align == Some('=') {
        return Err(Error::new("'=' alignment not allowed in string format specifier"));
    }
    let text = match spec.flags.precision {
        Some(n) => text.slice(0..text.byte_of(n))?,
        None => text.clone(),
    };
    let missing = spec.flags.width.saturating_sub(text.n_chars()?);
    let before = match spec.align {
        Some('>') => missing,
        Some('^') => missing / 2,
        _ => 0,
    };
    let fill = spec.fill.to_string();
    out.repeat(&fill, before)?;
    out.push(&text)?;
    out.repeat(&fill, missing - before)
}

fn format_number(digits: &str, negative: bool, spec: &Spec, out: &mut Builder) -> Result<()> {
    let digits = match spec.group {
        Some(separator) => {
            number::grouped(digits, separator, if matches!(spec.kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 })
        }
        None => digits.to_owned(),
    };
    let sign = match (negative, spec.flags.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let missing = spec.flags.width.saturating_sub(sign.len() + digits.chars().count());
    let align = spec.align.unwrap_or(if spec.flags.zero { '=' } else { '>' });
    let fill = spec.fill.to_string();
    let before = match align {
        '<' | '=' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    out.repeat(&fill, before)?;
    out.push_str(sign)?;
    out.repeat(&fill, if align == '=' { missing } else { 0 })?;
    out.push_str(&digits)?;
    out.repeat(&fill, if align == '=' { 0 } else { missing - before })
}
