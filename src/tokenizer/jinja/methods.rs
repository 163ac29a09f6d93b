//! Owns the methods of values other than text, and the global functions.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use super::args::Given;
use super::lexer::is_space;
use super::value::{Dict, Kind, Object, Value, object};
use super::{Error, Result, access, meter, number, ops, strings};

/// `value.name(...)`.
pub(super) fn call(value: &Value, name: &str, args: Given) -> Result<Value> {
    meter::work(1)?;
    match value {
        Value::Str(text) => strings::call(text, name, args),
        Value::Dict(dict) => dict_method(value, dict, name, args),
        Value::Seq(seq) => match name {
            "copy" => args.none(name).and_then(|()| Value::list(seq.items().to_vec())),
            _ => {
                let args = args.bind(name, ["value", "start", "stop"])?;
                search(seq.items(), args.need(0)?, name == "count", args.int(1, 0)?, args.int(2, i64::MAX)?)
            }
        },
        Value::Float(x) => match name {
            "is_integer" => Ok(Value::Bool(x.fract() == 0.0)),
            "conjugate" => Ok(value.clone()),
            _ => Err(no_method(value, name)),
        },
        Value::Object(object) => object_method(object, name, args),
        Value::Function("dict") => {
            let args = args.bind(name, ["iterable", "value"])?;
            let mut dict = Dict::empty();
            for key in access::iterate(args.need(0)?)?.items() {
                dict.insert(key.clone(), args.value(1).cloned().unwrap_or(Value::None))?;
            }
            Ok(dict.into_value())
        }
        other => match (other.as_int(), name) {
            (Some(n), "bit_length") => Ok(Value::Int(i64::from(64 - n.unsigned_abs().leading_zeros()))),
            (Some(n), "bit_count") => Ok(Value::Int(i64::from(n.unsigned_abs().count_ones()))),
            (Some(n), "conjugate") => Ok(Value::Int(n)),
            (Some(_), "is_integer") => Ok(Value::Bool(true)),
            _ => Err(no_method(other, name)),
        },
    }
}

fn no_method(value: &Value, name: &str) -> Error {
    Error::new(format!("'{} object' has no attribute '{name}'", value.type_name()))
}

fn dict_method(value: &Value, dict: &Dict, name: &str, args: Given) -> Result<Value> {
    let column = |kind, pick: fn(&(Value, Value)) -> &Value| {
        meter::work(dict.entries.len())?;
        Value::seq(kind, dict.entries.values().map(|entry| pick(entry).clone()).collect())
    };
    match name {
        "get" => {
            let args = args.bind(name, ["key", "default"])?;
            let found = dict.get(args.need(0)?)?.or(args.value(1));
            Ok(found.cloned().unwrap_or(Value::None))
        }
        "items" => args.none(name).and_then(|()| access::pairs(value, Kind::Items)),
        "keys" => args.none(name).and_then(|()| column(Kind::Keys, |entry| &entry.0)),
        "values" => args.none(name).and_then(|()| column(Kind::Values, |entry| &entry.1)),
        "copy" => args.none(name).map(|()| value.clone()),
        _ => Err(no_method(value, name)),
    }
}

fn search(items: &[Value], wanted: &Value, counts: bool, start: i64, stop: i64) -> Result<Value> {
    let place = |at: i64| if at < 0 { (at + items.len() as i64).max(0) } else { at };
    let (start, stop) = (place(start), place(stop));
    let mut n = 0;
    for (at, item) in items.iter().enumerate() {
        let within = (start..stop).contains(&(at as i64));
        if within && (item.is_same(wanted) || ops::equal(item, wanted)?) {
            if !counts {
                return Ok(Value::Int(at as i64));
            }
            n += 1;
        }
    }
    if counts { Ok(Value::Int(n)) } else { Err(Error::new("the value is not in list")) }
}

fn object_method(object: &Object, name: &str, args: Given) -> Result<Value> {
    match (object, name) {
        (Object::Cycler { items, at }, "next") => {
            let items = items.borrow();
            let item = items.get(at.get()).cloned().unwrap_or(Value::None);
            at.set((at.get() + 1) % items.len().max(1));
            Ok(item)
        }
        (Object::Cycler { at, .. }, _) => {
            at.set(0);
            Ok(Value::None)
        }
        (Object::Loop(state), "cycle") => {
            let at = state.borrow().index0;
            let n = args.positional.len();
            let item = if n == 0 { None } else { args.positional.get(at % n) };
            item.cloned().ok_or_else(|| Error::new("no items for cycling given"))
        }
        (Object::Loop(state), _) => {
            let changed = match &state.borrow().changed {
                Some(last) => {
                    let same = last.len() == args.positional.len();
                    !same || !all_equal(last, &args.positional)?
                }
                None => true,
            };
            state.borrow_mut().changed = Some(args.positional);
            Ok(Value::Bool(changed))
        }
        _ => Err(Error::new(format!("no method '{name}'"))),
    }
}

fn all_equal(a: &[Value], b: &[Value]) -> Result<bool> {
    for (a, b) in a.iter().zip(b) {
        if !ops::equal(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The global functions of transformers' chat templates.
pub(super) const FUNCTIONS: [&str; 7] =
    ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"];

/// Items of a `range` at most: the sandbox's bound.
const MAX_RANGE: i64 = 100_000;

/// `name(...)`.
pub(super) fn call_function(name: &str, mut args: Given) -> Result<Value> {
    match name {
        "range" => range(args),
        "dict" => Ok(dict(args)?.into_value()),
        "namespace" => {
            let dict = dict(args)?;
            for (key, _) in dict.entries.values() {
                check_namespace_name(key.as_str().unwrap_or(""))?;
            }
            object(Object::Namespace(RefCell::new(dict)))
        }
        "cycler" => {
            if args.positional.is_empty() {
                return Err(Error::new("at least one item has to be provided"));
            }
            object(Object::Cycler { items: RefCell::new(std::mem::take(&mut args.positional)), at: Cell::new(0) })
        }
        "joiner" => {
            let separator = args.bind(name, ["sep"])?.value(0).cloned().map_or_else(|| Value::text(", "), Ok)?;
            object(Object::Joiner { separator: RefCell::new(separator), used: Cell::new(false) })
        }
        "raise_exception" => Err(Error::new(args.bind(name, ["message"])?.as_text(0)?.as_str())),
        _ => strftime_now(args.bind(name, ["format"])?.text(0)?.as_str()),
    }
}

/// Transformers keeps names with an underscore for itself.
pub(super) fn check_namespace_name(name: &str) -> Result<()> {
    if name.starts_with('_') {
        return Err(Error::new(format!("a namespace takes no name that begins with an underscore, found '{name}'")));
    }
    Ok(())
}

fn range(args: Given) -> Result<Value> {
    let n = args.positional.len();
    let args = args.bind("range", ["start", "stop", "step"])?;
    args.need(0)?;
    let (start, stop) = if n == 1 { (0, args.int(0, 0)?) } else { (args.int(0, 0)?, args.int(1, 0)?) };
    let step = args.int(2, 1)?;
    if step == 0 {
        return Err(Error::new("range() arg 3 must not be zero"));
    }
    let (start, stop, step) = (i128::from(start), i128::from(stop), i128::from(step));
    let n = if step > 0 { (stop - start + step - 1) / step } else { (start - stop - step - 1) / -step };
    if n > i128::from(MAX_RANGE) {
        return Err(Error::new(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."
        )));
    }
    meter::work(n.max(0) as usize)?;
    Value::seq(Kind::Range, (0..n.max(0)).map(|i| Value::Int((start + i * step) as i64)).collect())
}

fn dict(args: Given) -> Result<Dict> {
    let mut dict = Dict::empty();
    match args.positional.first() {
        None => {}
        Some(Value::Dict(other)) => {
            for (key, value) in other.entries.values() {
                dict.insert(key.clone(), value.clone())?;
            }
        }
        Some(other) => {
            for pair in access::iterate(other)?.items() {
                let pair = access::iterate(pair)?;
                let [key, value] = pair.items() else {
                    return Err(Error::new("dict() takes pairs"));
                };
                dict.insert(key.clone(), value.clone())?;
            }
        }
    }
    for (name, value) in args.named {
        dict.insert(Value::text(name)?, value)?;
    }
    Ok(dict)
}

fn strftime_now(format: &str) -> Result<Value> {
    let mut text = String::new();
    meter::work(100 * format.len())?;
    // An unknown specifier is an error here, and a panic in `to_string`.
    write!(text, "{}", chrono::Local::now().format(format))
        .map_err(|_| Error::new(format!("strftime_now: `{format}` is no date format")))?;
    Value::text(text)
}

/// `int(value)` as the filter has it: whatever is no number is the default.
pub(super) fn to_int(value: &Value, default: &Value, base: i64) -> Result<Value> {
    let exact = match value {
        Value::Undefined(message) => return Err(Error::new(&**message)),
        Value::Str(text) => {
            let text = text.as_str().trim_matches(is_space);
            number::parse_int(text, base).or_else(|| number::parse_float(text).and_then(number::truncate))
        }
        Value::Float(x) => number::truncate(*x),
        other => other.as_int(),
    };
    Ok(exact.map_or_else(|| default.clone(), Value::Int))
}

/// `float(value)` as the filter has it.
pub(super) fn to_float(value: &Value, default: &Value) -> Result<Value> {
    let exact = match value {
        Value::Undefined(message) => return Err(Error::new(&**message)),
        Value::Str(text) => number::parse_float(text.as_str()),
        other => other.as_float(),
    };
    Ok(exact.map_or_else(|| default.clone(), Value::Float))
}
