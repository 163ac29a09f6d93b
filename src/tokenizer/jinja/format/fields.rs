//! Owns `str.format`: the fields of a text, and the values that they name.

use super::represented;
use super::spec::format_value;
use crate::tokenizer::jinja::text::{Builder, Text};
use crate::tokenizer::jinja::value::Value;
use crate::tokenizer::jinja::{Error, Result, access, meter, repr};

/// `text.format(*positional, **named)`.
pub(in crate::tokenizer::jinja) fn str_format(text: &Text, positional: &[Value], named: &Value) -> Result<Value> {
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
