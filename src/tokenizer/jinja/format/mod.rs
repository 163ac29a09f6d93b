//! Owns Python's `%` on text (`percent`), `str.format` (`fields`), and the format specifications of the latter (`spec`).

mod fields;
mod percent;
mod spec;

pub(super) use fields::str_format;
pub(super) use percent::percent;

use super::number::MAX_PRECISION;
use super::text::{Builder, Text};
use super::value::Value;
use super::{Error, Result, repr};

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

fn checked_size(n: usize, limit: usize) -> Result<usize> {
    if n > limit { Err(Error::new(format!("a format asks for {n} columns, at most {limit}"))) } else { Ok(n) }
}

/// An integer without its sign.
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

/// What `repr` or `ascii` gives.
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
