//! Owns the ways into values: attributes, items, slices, iteration and length, with the sandbox's refusals.

use std::rc::Rc;

use super::meter;
use super::text::{Builder, Text};
use super::value::{Kind, Loop, Object, Seq, Value};
use super::{Error, Result};

const TEXT_METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const DICT_METHODS: &[&str] = &["copy", "get", "items", "keys", "values", "fromkeys"];
const SEQ_METHODS: &[&str] = &["count", "index"];
const LOOP_METHODS: &[&str] = &["cycle", "changed"];
const CYCLER_METHODS: &[&str] = &["next", "reset"];
const INT_METHODS: &[&str] = &["bit_length", "bit_count", "conjugate", "as_integer_ratio", "is_integer"];
const FLOAT_METHODS: &[&str] = &["is_integer", "hex", "conjugate", "as_integer_ratio"];

/// Methods that would change a value.
const LIST_CHANGES: &[&str] = &["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];
const DICT_CHANGES: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];

/// `value.name`: the attribute, else the item.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value> {
    meter::work(1)?;
    if let Value::Undefined(message) = value {
        return Err(Error::new(&**message));
    }
    if let Some(found) = own_attribute(value, name)? {
        return Ok(found);
    }
    match value {
        Value::Dict(dict) => Ok(dict.get_str(name).cloned().unwrap_or_else(|| missing(value, name))),
        _ => Ok(missing(value, name)),
    }
}

/// `value[key]`: the item, else the attribute.
pub(super) fn item(value: &Value, key: &Value) -> Result<Value> {
    meter::bytes(key.as_str().map_or(0, str::len))?;
    let found = match (value, key) {
        (Value::Undefined(message), _) => return Err(Error::new(&**message)),
        (Value::Dict(dict), key) => match key {
            Value::Str(key) => dict.get_str(key.as_str()).cloned(),
            // What cannot be a key is not in it.
            Value::Seq(_) | Value::Dict(_) => dict.get(key).ok().flatten().cloned(),
            key => dict.get(key)?.cloned(),
        },
        (Value::Seq(seq), key) => key.as_int().and_then(|at| nth(seq, at)),
        (Value::Str(text), key) => match key.as_int() {
            Some(at) => nth_char(text, at)?,
            None => None,
        },
        _ => None,
    };
    match (found, key) {
        (Some(found), _) => Ok(found),
        (None, Value::Str(name)) => {
            Ok(own_attribute(value, name.as_str())?.unwrap_or_else(|| missing(value, name.as_str())))
        }
        (None, key) => {
            let mut shown = Builder::new();
            super::repr::write_repr(&mut shown, key)?;
            let shown = shown.finish()?;
            Ok(Value::undefined(format!("{} has no element {}", describe(value), shown.as_str())))
        }
    }
}

fn nth(seq: &Seq, at: i64) -> Option<Value> {
    let items = seq.items();
    let at = if at < 0 { at + items.len() as i64 } else { at };
    usize::try_from(at).ok().filter(|_| seq.is_indexed()).and_then(|at| items.get(at)).cloned()
}

fn nth_char(text: &Text, at: i64) -> Result<Option<Value>> {
    let n = text.n_chars()? as i64;
    let at = if at < 0 { at + n } else { at };
    if at < 0 || at >= n {
        return Ok(None);
    }
    let start = text.byte_of(at as usize);
    let end = start + text.as_str()[start..].chars().next().map_or(0, char::len_utf8);
    Ok(Some(Value::Str(text.slice(start..end)?)))
}

/// What has no such attribute or item.
fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{}' has no attribute '{name}'", describe(value)))
}

/// Python's words for a value in these messages.
fn describe(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        Value::Object(_) | Value::Macro(_) => format!("jinja2.runtime.{} object", value.type_name()),
        Value::Str(text) if text.is_markup() => "markupsafe.Markup object".to_owned(),
        other => format!("{} object", other.type_name()),
    }
}

fn own_attribute(value: &Value, name: &str) -> Result<Option<Value>> {
    if name.starts_with('_') {
        return Ok(private(value, name));
    }
    let (methods, changes): (&[&str], &[&str]) = match value {
        Value::Str(_) => (TEXT_METHODS, &[]),
        Value::Dict(_) => (DICT_METHODS, DICT_CHANGES),
        Value::Seq(seq) => match seq.kind {
            Kind::List if name == "copy" => (&["copy"], &[]),
            Kind::List => (SEQ_METHODS, LIST_CHANGES),
            Kind::Group if name == "grouper" => return Ok(nth(seq, 0)),
            Kind::Group if name == "list" => return Ok(nth(seq, 1)),
            Kind::Tuple | Kind::Range | Kind::Group => (SEQ_METHODS, &[]),
            _ => (&[], &[]),
        },
        Value::Int(_) | Value::Bool(_) if matches!(name, "real" | "numerator") => return Ok(Some(value.clone())),
        Value::Int(_) | Value::Bool(_) if name == "imag" => return Ok(Some(Value::Int(0))),
        Value::Int(_) | Value::Bool(_) => (INT_METHODS, &[]),
        Value::Float(_) => (FLOAT_METHODS, &[]),
        Value::Object(object) => return object_attribute(value, object, name),
        Value::Macro(found) if name == "name" => {
            return Ok(Some(found.def.name.as_deref().map_or(Ok(Value::None), Value::text)?));
        }
        Value::Function("dict") => (&["fromkeys"], &[]),
        _ => (&[], &[]),
    };
    if changes.contains(&name) {
        let type_name = value.type_name();
        return Ok(Some(Value::undefined(format!("access to attribute '{name}' of '{type_name}' object is unsafe."))));
    }
    Ok(methods.contains(&name).then(|| Value::Method(Rc::new((value.clone(), name.to_owned())))))
}

/// What begins with an underscore belongs to Python and not to templates, unless it is a key.
fn private(value: &Value, name: &str) -> Option<Value> {
    const KNOWN: [&str; 10] = [
        "__class__",
        "__init__",
        "__doc__",
        "__dict__",
        "__str__",
        "__repr__",
        "__len__",
        "__getitem__",
        "__iter__",
        "__eq__",
    ];
    let unsafe_ =
        |type_name| Value::undefined(format!("access to attribute '{name}' of '{type_name}' object is unsafe."));
    KNOWN.contains(&name).then(|| unsafe_(value.type_name()))
}

fn object_attribute(value: &Value, object: &Object, name: &str) -> Result<Option<Value>> {
    let method =
        |names: &[&str]| names.contains(&name).then(|| Value::Method(Rc::new((value.clone(), name.to_owned()))));
    match object {
        Object::Namespace(dict) => Ok(dict.borrow().get_str(name).cloned()),
        Object::Cycler { items, at } => match name {
            "current" => Ok(items.borrow().get(at.get()).cloned()),
            "pos" => Ok(Some(Value::Int(at.get() as i64))),
            "items" => Ok(Some(Value::tuple(items.borrow().clone())?)),
            _ => Ok(method(CYCLER_METHODS)),
        },
        Object::Joiner { separator, used } => match name {
            "sep" => Ok(Some(separator.borrow().clone())),
            "used" => Ok(Some(Value::Bool(used.get()))),
            _ => Ok(None),
        },
        Object::Loop(state) => Ok(loop_attribute(&state.borrow(), name).or_else(|| method(LOOP_METHODS))),
    }
}

fn loop_attribute(state: &Loop, name: &str) -> Option<Value> {
    let items = state.items.items();
    let int = |n: usize| Some(Value::Int(n as i64));
    match name {
        "index" => int(state.index0 + 1),
        "index0" => int(state.index0),
        "revindex" => int(items.len() - state.index0.min(items.len())),
        "revindex0" => Some(Value::Int(items.len() as i64 - state.index0 as i64 - 1)),
        "first" => Some(Value::Bool(state.index0 == 0)),
        "last" => Some(Value::Bool(state.index0 + 1 == items.len())),
        "length" => int(items.len()),
        "depth" => int(state.depth0 + 1),
        "depth0" => int(state.depth0),
        "previtem" => Some(match state.index0.checked_sub(1) {
            Some(at) => items.get(at).cloned().unwrap_or(Value::None),
            None => Value::undefined("there is no previous item"),
        }),
        "nextitem" => {
            Some(items.get(state.index0 + 1).cloned().unwrap_or_else(|| Value::undefined("there is no next item")))
        }
        _ => None,
    }
}

/// `value[start:stop:step]`; undefined for what has no order.
pub(super) fn slice(value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
    let n = match value {
        Value::Undefined(message) => return Err(Error::new(&**message)),
        Value::Str(text) => text.n_chars()?,
        Value::Seq(seq) if seq.is_indexed() => seq.items().len(),
        other => return Ok(Value::undefined(format!("{} has no slices", describe(other)))),
    };
    let bound = |bound: &Option<Value>| match bound {
        None | Some(Value::None) => Ok(None),
        Some(Value::Undefined(message)) => Err(Error::new(&**message)),
        Some(other) => match other.as_int() {
            Some(n) => Ok(Some(n)),
            None => Err(Error::new("slice indices must be integers or None")),
        },
    };
    let bounds = [bound(&bounds[0]), bound(&bounds[1]), bound(&bounds[2])];
    // What Python cannot slice so is undefined in a template.
    let [Ok(start), Ok(stop), Ok(step)] = bounds else {
        return Ok(Value::undefined(format!("{} has no such slice", describe(value))));
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new("slice step cannot be zero"));
    }
    let places = places(n as i64, start, stop, step);
    match value {
        Value::Str(text) => slice_text(text, places, step),
        Value::Seq(seq) => {
            let kind = if seq.kind == Kind::Group { Kind::Tuple } else { seq.kind };
            let items: Vec<Value> = places.map(|at| seq.items()[at].clone()).collect();
            meter::work(items.len())?;
            Value::seq(kind, items)
        }
        _ => Ok(Value::None),
    }
}

/// The places that a slice takes, of `n`.
fn places(n: i64, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> + Clone {
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |bound: Option<i64>, default| match bound {
        None => default,
        Some(at) if at < 0 => (at.saturating_add(n)).max(low),
        Some(at) => at.min(high),
    };
    let (start, stop) =
        if step > 0 { (place(start, low), place(stop, high)) } else { (place(start, high), place(stop, low)) };
    let mut at = Some(start);
    std::iter::from_fn(move || {
        let here = at.filter(|&at| if step > 0 { at < stop } else { at > stop })?;
        at = here.checked_add(step);
        usize::try_from(here).ok()
    })
}

fn slice_text(text: &Text, mut places: impl Iterator<Item = usize> + Clone, step: i64) -> Result<Value> {
    if step == 1 {
        let Some(first) = places.next() else { return Ok(Value::Str(text.slice(0..0)?)) };
        let n = 1 + places.count();
        let start = text.byte_of(first);
        let rest = &text.as_str()[start..];
        let end = start + rest.char_indices().nth(n).map_or(rest.len(), |(at, _)| at);
        return Ok(Value::Str(text.slice(start..end)?));
    }
    let starts: Vec<usize> = text.as_str().char_indices().map(|(at, _)| at).collect();
    let mut out = Builder::new();
    for place in places {
        let end = starts.get(place + 1).copied().unwrap_or(text.as_str().len());
        meter::work(1)?;
        out.push_part(text, starts[place]..end)?;
    }
    out.markup = text.is_markup();
    Ok(Value::Str(out.finish()?))
}

/// What a loop over the value goes through.
pub(super) fn iterate(value: &Value) -> Result<Rc<Seq>> {
    match value {
        Value::Seq(seq) if seq.kind == Kind::Generator => {
            let items = seq.items().to_vec();
            seq.take(items.len());
            Ok(Rc::new(Seq::new(Kind::List, items)?))
        }
        Value::Seq(seq) => Ok(Rc::clone(seq)),
        Value::Undefined(_) => Ok(Rc::new(Seq::empty())),
        Value::Dict(dict) => {
            let keys: Vec<Value> = dict.entries.values().map(|(key, _)| key.clone()).collect();
            meter::work(keys.len())?;
            Ok(Rc::new(Seq::new(Kind::List, keys)?))
        }
        Value::Str(text) => {
            let mut chars = Vec::new();
            for (at, c) in text.as_str().char_indices() {
                meter::work(1)?;
                chars.push(Value::Str(text.slice(at..at + c.len_utf8())?));
            }
            Ok(Rc::new(Seq::new(Kind::List, chars)?))
        }
        other => Err(Error::new(format!("'{}' object is not iterable", other.type_name()))),
    }
}

/// `len(value)`.
pub(super) fn length(value: &Value) -> Result<usize> {
    match value {
        Value::Str(text) => text.n_chars(),
        Value::Seq(seq) if seq.kind != Kind::Generator => Ok(seq.items().len()),
        Value::Dict(dict) => Ok(dict.entries.len()),
        Value::Undefined(_) => Ok(0),
        Value::Object(object) => match &**object {
            Object::Loop(state) => Ok(state.borrow().items.items().len()),
            _ => Err(Error::new(format!("object of type '{}' has no len()", value.type_name()))),
        },
        other => Err(Error::new(format!("object of type '{}' has no len()", other.type_name()))),
    }
}

/// The items of a dict as pairs.
pub(super) fn pairs(value: &Value, kind: Kind) -> Result<Value> {
    let Value::Dict(dict) = value else { return Err(Error::new("Can only get item pairs from a mapping.")) };
    let pairs = dict.entries.values().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
    Value::seq(kind, pairs.collect::<Result<_>>()?)
}

/// What `attribute='a.b.0'` of a filter means.
pub(super) fn path(value: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
    let parts = match path {
        Value::None => return Ok(value.clone()),
        Value::Str(text) => text.as_str().split('.').collect::<Vec<_>>(),
        other => return item(value, other),
    };
    let mut found = value.clone();
    for part in parts {
        let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let key = match part.parse() {
            Ok(n) if is_number => Value::Int(n),
            _ => Value::text(part)?,
        };
        found = item(&found, &key)?;
        if let Some(default) = default.filter(|_| found.is_undefined()) {
            found = default.clone();
        }
    }
    Ok(found)
}
