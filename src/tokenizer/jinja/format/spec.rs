//! Owns the format specifications of `str.format`.

use super::{Flags, MAX_WIDTH, checked_size, integer_digits};
use crate::tokenizer::jinja::number::{self, MAX_PRECISION};
use crate::tokenizer::jinja::text::{Builder, Text};
use crate::tokenizer::jinja::value::Value;
use crate::tokenizer::jinja::{Error, Result, markup, repr};

/// Writes a value as a specification says.
pub(super) fn format_value(value: &Value, spec: &str, escapes: bool, out: &mut Builder) -> Result<()> {
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
