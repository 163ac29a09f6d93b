//! Owns Python's `%` on text.

use super::{Flags, MAX_WIDTH, checked_size, integer_digits, represented};
use crate::tokenizer::jinja::number::{self, MAX_PRECISION};
use crate::tokenizer::jinja::text::{Builder, Text};
use crate::tokenizer::jinja::value::{Kind, Value};
use crate::tokenizer::jinja::{Error, Result, markup, meter, repr};

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
pub(in crate::tokenizer::jinja) fn percent(text: &Text, values: &Value) -> Result<Value> {
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
