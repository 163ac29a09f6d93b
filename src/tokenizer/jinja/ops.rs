//! Owns Python's operators on values: arithmetic, equality, order, containment.

use std::cmp::Ordering;

use super::ast::MathOp;
use super::meter;
use super::text::{Builder, Text};
use super::value::{Dict, Kind, Object, Seq, Value};
use super::{Error, Result, format, markup};

/// `left operator right`.
pub(super) fn math(operator: MathOp, left: &Value, right: &Value) -> Result<Value> {
    meter::work(1)?;
    for side in [left, right] {
        if let Value::Undefined(message) = side
            && !(operator == MathOp::Mod && matches!(left, Value::Str(_)))
        {
            return Err(Error::new(&**message));
        }
    }
    match (operator, left, right) {
        (MathOp::Add, Value::Str(a), Value::Str(b)) => add_texts(a, b),
        (MathOp::Mod, Value::Str(text), values) => format::percent(text, values),
        (MathOp::Add, Value::Seq(a), Value::Seq(b)) if a.kind == b.kind && is_joined(a) => {
            meter::work(a.items().len() + b.items().len())?;
            Value::seq(a.kind, [a.items(), b.items()].concat())
        }
        (MathOp::Mul, Value::Str(text), n) | (MathOp::Mul, n, Value::Str(text)) if n.as_int().is_some() => {
            repeat_text(text, n.as_int().unwrap_or(0))
        }
        (MathOp::Mul, Value::Seq(seq), n) | (MathOp::Mul, n, Value::Seq(seq))
            if n.as_int().is_some() && is_joined(seq) =>
        {
            repeat_items(seq, n.as_int().unwrap_or(0))
        }
        _ => match (left.as_int(), right.as_int()) {
            (Some(a), Some(b)) => integers(operator, a, b),
            _ => match (left.as_float(), right.as_float()) {
                (Some(a), Some(b)) => floats(operator, a, b),
                _ => Err(unsupported(operator, left, right)),
            },
        },
    }
}

fn is_joined(seq: &Seq) -> bool {
    matches!(seq.kind, Kind::List | Kind::Tuple)
}

fn add_texts(a: &Text, b: &Text) -> Result<Value> {
    let mut out = Builder::new();
    // Text beside escaped text is escaped.
    let is_markup = a.is_markup() || b.is_markup();
    for text in [a, b] {
        match is_markup && !text.is_markup() {
            true => out.push(&markup::escape(text)?)?,
            false => out.push(text)?,
        }
    }
    out.markup = is_markup;
    Ok(Value::Str(out.finish()?))
}

fn repeat_text(text: &Text, n: i64) -> Result<Value> {
    let mut out = Builder::new();
    let n = usize::try_from(n).unwrap_or(0);
    match text.has_typed() {
        true => {
            for _ in 0..n {
                out.push(text)?;
            }
        }
        false => out.repeat(text.as_str(), n)?,
    }
    out.markup = text.is_markup();
    Ok(Value::Str(out.finish()?))
}

fn repeat_items(seq: &Seq, n: i64) -> Result<Value> {
    let n = usize::try_from(n).unwrap_or(0);
    let count = seq.items().len().saturating_mul(n);
    // Asked for before it is made.
    drop(meter::Charge::of(count.saturating_mul(size_of::<Value>()))?);
    meter::work(count)?;
    Value::seq(seq.kind, (0..n).flat_map(|_| seq.items().iter().cloned()).collect())
}

fn integers(operator: MathOp, a: i64, b: i64) -> Result<Value> {
    let exact = match operator {
        MathOp::Add => a.checked_add(b),
        MathOp::Sub => a.checked_sub(b),
        MathOp::Mul => a.checked_mul(b),
        MathOp::Div | MathOp::FloorDiv | MathOp::Mod if b == 0 => return Err(Error::new("division by zero")),
        MathOp::Div => return Ok(Value::Float(a as f64 / b as f64)),
        MathOp::FloorDiv => a.checked_div_euclid(b).map(|_| floor_div(a, b)),
        MathOp::Mod => a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }),
        MathOp::Pow if b < 0 => return floats(operator, a as f64, b as f64),
        MathOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    exact.map(Value::Int).ok_or_else(|| Error::new("a whole number is larger than 64 bits"))
}

fn floor_div(a: i64, b: i64) -> i64 {
    let (quotient, rest) = (a / b, a % b);
    if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient }
}

fn floats(operator: MathOp, a: f64, b: f64) -> Result<Value> {
    let zero = matches!(operator, MathOp::Div | MathOp::FloorDiv | MathOp::Mod) && b == 0.0;
    if zero || (operator == MathOp::Pow && a == 0.0 && b < 0.0) {
        return Err(Error::new("float division by zero"));
    }
    Ok(Value::Float(match operator {
        MathOp::Add => a + b,
        MathOp::Sub => a - b,
        MathOp::Mul => a * b,
        MathOp::Div => a / b,
        MathOp::FloorDiv => (a / b).floor(),
        MathOp::Mod => match a % b {
            rest if rest != 0.0 && (rest < 0.0) != (b < 0.0) => rest + b,
            rest => rest,
        },
        MathOp::Pow => a.powf(b),
    }))
}

fn unsupported(operator: MathOp, left: &Value, right: &Value) -> Error {
    let operator = match operator {
        MathOp::Add => "+",
        MathOp::Sub => "-",
        MathOp::Mul => "*",
        MathOp::Div => "/",
        MathOp::FloorDiv => "//",
        MathOp::Mod => "%",
        MathOp::Pow => "** or pow()",
    };
    let (left, right) = (left.type_name(), right.type_name());
    Error::new(format!("unsupported operand type(s) for {operator}: '{left}' and '{right}'"))
}

/// `left == right`.
pub(super) fn equal(left: &Value, right: &Value) -> Result<bool> {
    let _level = meter::deeper()?;
    match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => Ok(true),
        (Value::Str(a), Value::Str(b)) => {
            meter::bytes(a.as_str().len().min(b.as_str().len()))?;
            Ok(a.as_str() == b.as_str())
        }
        (Value::Seq(a), Value::Seq(b)) => {
            if std::rc::Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            let as_tuple = |kind| if kind == Kind::Group { Kind::Tuple } else { kind };
            let comparable = as_tuple(a.kind) == as_tuple(b.kind) && a.kind != Kind::Generator;
            Ok(comparable && a.items().len() == b.items().len() && all_equal(a.items(), b.items())?)
        }
        (Value::Dict(a), Value::Dict(b)) => Ok(std::rc::Rc::ptr_eq(a, b) || equal_dicts(a, b)?),
        _ => match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
            (Some(a), Some(b), ..) => Ok(a == b),
            (_, _, Some(a), Some(b)) => Ok(a == b),
            _ => Ok(left.is_same(right)),
        },
    }
}

fn all_equal(a: &[Value], b: &[Value]) -> Result<bool> {
    for (a, b) in a.iter().zip(b) {
        if !equal(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_dicts(a: &Dict, b: &Dict) -> Result<bool> {
    if a.entries.len() != b.entries.len() {
        return Ok(false);
    }
    for (key, (_, value)) in &a.entries {
        match b.entries.get(key) {
            Some((_, other)) if equal(value, other)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The order of two values; `None` where one is no number. `sign` is the operator in an error.
pub(super) fn compare(left: &Value, right: &Value, sign: &str) -> Result<Option<Ordering>> {
    let _level = meter::deeper()?;
    match (left, right) {
        (Value::Undefined(message), _) | (_, Value::Undefined(message)) => Err(Error::new(&**message)),
        (Value::Str(a), Value::Str(b)) => {
            meter::bytes(a.as_str().len().min(b.as_str().len()))?;
            Ok(Some(a.as_str().cmp(b.as_str())))
        }
        (Value::Seq(a), Value::Seq(b)) if a.kind == b.kind && is_joined(a) => {
            for (a, b) in a.items().iter().zip(b.items()) {
                if !equal(a, b)? {
                    return compare(a, b, sign);
                }
            }
            Ok(Some(a.items().len().cmp(&b.items().len())))
        }
        _ => match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
            (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
            (_, _, Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => {
                let (left, right) = (left.type_name(), right.type_name());
                Err(Error::new(format!("'{sign}' not supported between instances of '{left}' and '{right}'")))
            }
        },
    }
}

/// `left < right`.
pub(super) fn less(left: &Value, right: &Value) -> Result<bool> {
    Ok(compare(left, right, "<")? == Some(Ordering::Less))
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value) -> Result<bool> {
    match (container, item) {
        (Value::Str(text), Value::Str(part)) => {
            meter::bytes(text.as_str().len())?;
            Ok(text.as_str().contains(part.as_str()))
        }
        (Value::Str(_), other) => {
            let name = other.type_name();
            Err(Error::new(format!("'in <string>' requires string as left operand, not {name}")))
        }
        (Value::Seq(seq), item) => {
            for (i, candidate) in seq.items().iter().enumerate() {
                if candidate.is_same(item) || equal(candidate, item)? {
                    seq.take(i + 1);
                    return Ok(true);
                }
            }
            seq.take(usize::MAX);
            Ok(false)
        }
        (Value::Dict(dict), item) => Ok(dict.get(item)?.is_some()),
        (Value::Undefined(_), _) => Ok(false),
        (Value::Object(object), item) if matches!(&**object, Object::Loop(_)) => {
            let _ = item;
            Err(Error::new("a loop cannot be searched"))
        }
        (other, _) => Err(Error::new(format!("argument of type '{}' is not iterable", other.type_name()))),
    }
}

/// Sorts, equal items in their order. Unlike the library's sort it may stop, and no order confuses it.
pub(super) fn sort<T>(items: Vec<T>, less: &mut dyn FnMut(&T, &T) -> Result<bool>) -> Result<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    meter::work(items.len())?;
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let n = left.len() + right.len();
    let mut left = sort(left, less)?.into_iter().peekable();
    let mut right = sort(right, less)?.into_iter().peekable();
    let mut sorted = Vec::with_capacity(n);
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if less(b, a)? { right.next() } else { left.next() };
        sorted.extend(next);
    }
    sorted.extend(left);
    sorted.extend(right);
    Ok(sorted)
}
