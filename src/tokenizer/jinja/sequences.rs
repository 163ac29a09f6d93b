//! Owns the filters on sequences. What Python makes a generator of is one here: true even when empty, without a length.

use super::args::{Bound, Given};
use super::ast::MathOp;
use super::text::{Builder, Text};
use super::value::{Key, Kind, Value};
use super::{Error, Result, access, meter, ops, predicates, repr};

const NAMES: &[&str] = &[
    "batch",
    "dictsort",
    "first",
    "groupby",
    "join",
    "last",
    "list",
    "items",
    "map",
    "min",
    "max",
    "random",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "slice",
    "sort",
    "sum",
    "unique",
];

/// Whether this is one of them.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a filter of any kind by its name.
type Filter = fn(&str, &Value, Given) -> Result<Value>;

/// `value|name(...)`; `any` is what `map` calls on each item.
pub(super) fn call(name: &str, value: &Value, args: Given, any: Filter) -> Result<Value> {
    match name {
        "join" => join(value, args.bind(name, ["d", "attribute"])?),
        "list" => {
            args.none(name)?;
            Value::list(access::iterate(value)?.items().to_vec())
        }
        "items" => {
            args.none(name)?;
            match value {
                Value::Undefined(_) => Value::seq(Kind::Generator, Vec::new()),
                other => access::pairs(other, Kind::Generator),
            }
        }
        "first" | "last" | "random" => {
            args.none(name)?;
            one(name, value)
        }
        "reverse" => {
            args.none(name)?;
            reverse(value)
        }
        "map" => map(value, args, any),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, value, args),
        "sort" => sort(value, args.bind(name, ["reverse", "case_sensitive", "attribute"])?),
        "dictsort" => dict_sort(value, args.bind(name, ["case_sensitive", "by", "reverse"])?),
        "unique" => unique(value, args.bind(name, ["case_sensitive", "attribute"])?),
        "min" | "max" => extreme(name, value, args.bind(name, ["case_sensitive", "attribute"])?),
        "groupby" => group_by(value, args.bind(name, ["attribute", "default", "case_sensitive"])?),
        "sum" => {
            let args = args.bind(name, ["attribute", "start"])?;
            let mut sum = args.value(1).cloned().unwrap_or(Value::Int(0));
            if matches!(sum, Value::Str(_)) {
                return Err(Error::new("sum() can't sum strings [use ''.join(seq) instead]"));
            }
            for item in access::iterate(value)?.items() {
                sum = ops::math(MathOp::Add, &sum, &picked(item, args.some(0))?)?;
            }
            Ok(sum)
        }
        "batch" => batch(value, args.bind(name, ["linecount", "fill_with"])?),
        _ => slices(value, args.bind(name, ["slices", "fill_with"])?),
    }
}

/// The item, or what it has at `attribute`.
fn picked(item: &Value, attribute: Option<&Value>) -> Result<Value> {
    attribute.map_or_else(|| Ok(item.clone()), |attribute| access::path(item, attribute, None))
}

/// What an item is compared by: texts without regard to case, unless it counts.
fn sort_key(item: &Value, attribute: Option<&Value>, case_sensitive: bool) -> Result<Value> {
    match picked(item, attribute)? {
        Value::Str(text) if !case_sensitive => Ok(Value::Str(text.map_runs(str::to_lowercase)?)),
        other => Ok(other),
    }
}

fn join(value: &Value, args: Bound<2>) -> Result<Value> {
    let separator = args.value(0).map_or_else(|| Text::new(""), repr::str)?;
    let mut out = Builder::new();
    for (i, item) in access::iterate(value)?.items().iter().enumerate() {
        if i > 0 {
            out.push(&separator)?;
        }
        repr::write_str(&mut out, &picked(item, args.some(1))?)?;
    }
    Ok(Value::Str(out.finish()?))
}

fn one(name: &str, value: &Value) -> Result<Value> {
    let none = || Value::undefined(format!("No {name} item, sequence was empty."));
    if name == "first" {
        if let Value::Seq(seq) = value {
            let first = seq.items().first().cloned();
            seq.take(1);
            return Ok(first.unwrap_or_else(none));
        }
        return Ok(access::iterate(value)?.items().first().cloned().unwrap_or_else(none));
    }
    if value.is_generator() {
        return Err(Error::new("'generator' object is not reversible"));
    }
    let items = access::iterate(value)?;
    let at = match items.items().len() {
        0 => return Ok(none()),
        n if name == "random" => rand::random_range(0..n),
        n => n - 1,
    };
    Ok(items.items()[at].clone())
}

fn reverse(value: &Value) -> Result<Value> {
    if let Value::Str(text) = value {
        let mut out = Builder::new();
        for (at, c) in text.as_str().char_indices().rev() {
            meter::work(1)?;
            out.push_part(text, at..at + c.len_utf8())?;
        }
        return Ok(Value::Str(out.finish()?));
    }
    let kind = if value.is_generator() { Kind::List } else { Kind::Generator };
    let mut items = access::iterate(value)?.items().to_vec();
    items.reverse();
    Value::seq(kind, items)
}

fn map(value: &Value, mut args: Given, filter: Filter) -> Result<Value> {
    let items = access::iterate(value)?;
    let mut mapped = Vec::new();
    if args.positional.is_empty() && args.named.iter().any(|(name, _)| name == "attribute") {
        let args = args.bind("map", ["attribute", "default"])?;
        for item in items.items() {
            mapped.push(access::path(item, args.need(0)?, args.some(1))?);
        }
        return Value::seq(Kind::Generator, mapped);
    }
    if args.positional.is_empty() {
        return Err(Error::new("map requires a filter argument"));
    }
    let name = repr::str(&args.positional.remove(0))?;
    for item in items.items() {
        let args = Given { positional: args.positional.clone(), named: args.named.clone() };
        let _level = meter::deeper()?;
        mapped.push(filter(name.as_str(), item, args)?);
    }
    Value::seq(Kind::Generator, mapped)
}

fn select(filter: &str, value: &Value, mut args: Given) -> Result<Value> {
    let wanted = filter.starts_with("select");
    let items = access::iterate(value)?;
    let attribute = match filter.ends_with("attr") {
        true if args.positional.is_empty() => return Err(Error::new("Missing parameter for attribute name")),
        true => Some(args.positional.remove(0)),
        false => None,
    };
    let name = if args.positional.is_empty() { None } else { Some(repr::str(&args.positional.remove(0))?) };
    let mut selected = Vec::new();
    for item in items.items() {
        meter::work(1)?;
        let tested = picked(item, attribute.as_ref())?;
        let holds = match &name {
            None => tested.is_true(),
            Some(name) => {
                let args = Given { positional: args.positional.clone(), named: args.named.clone() };
                predicates::call(name.as_str(), &tested, args)?
            }
        };
        if holds == wanted {
            selected.push(item.clone());
        }
    }
    Value::seq(Kind::Generator, selected)
}

/// Sorts by keys; equal items stay in their order, also when it is turned round.
fn sort_by(mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<(Value, Value)>> {
    if reverse {
        keyed.reverse();
    }
    let mut sorted = ops::sort(keyed, &mut |a, b| ops::less(&a.0, &b.0))?;
    if reverse {
        sorted.reverse();
    }
    Ok(sorted)
}

fn values(keyed: Vec<(Value, Value)>) -> Vec<Value> {
    keyed.into_iter().map(|(_, value)| value).collect()
}

fn sort(value: &Value, args: Bound<3>) -> Result<Value> {
    let case_sensitive = args.is_true(1, false);
    let attributes = match args.some(2) {
        Some(Value::Str(text)) => text.as_str().split(',').map(Value::text).collect::<Result<Vec<_>>>()?,
        Some(other) => vec![other.clone()],
        None => Vec::new(),
    };
    let key = |item: &Value| match attributes.as_slice() {
        [] => sort_key(item, None, case_sensitive),
        several => {
            let keys = several.iter().map(|attribute| sort_key(item, Some(attribute), case_sensitive));
            Value::tuple(keys.collect::<Result<_>>()?)
        }
    };
    let items = access::iterate(value)?;
    let keyed = items.items().iter().map(|item| Ok((key(item)?, item.clone()))).collect::<Result<_>>()?;
    Value::list(values(sort_by(keyed, args.is_true(0, false))?))
}

fn dict_sort(value: &Value, args: Bound<3>) -> Result<Value> {
    let place = match args.some_text(1)?.map_or("key", Text::as_str) {
        "key" => 0,
        "value" => 1,
        _ => return Err(Error::new("You can only sort by either \"key\" or \"value\"")),
    };
    let Value::Seq(pairs) = access::pairs(value, Kind::List)? else { return Ok(Value::None) };
    let (place, case_sensitive) = (Value::Int(place), args.is_true(0, false));
    let keyed = pairs.items().iter().map(|pair| Ok((sort_key(pair, Some(&place), case_sensitive)?, pair.clone())));
    Value::list(values(sort_by(keyed.collect::<Result<_>>()?, args.is_true(2, false))?))
}

fn unique(value: &Value, args: Bound<2>) -> Result<Value> {
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::new();
    for item in access::iterate(value)?.items() {
        if seen.insert(Key::of(&sort_key(item, args.some(1), args.is_true(0, false))?)?) {
            kept.push(item.clone());
        }
    }
    Value::seq(Kind::Generator, kept)
}

fn extreme(name: &str, value: &Value, args: Bound<2>) -> Result<Value> {
    let mut best: Option<(Value, Value)> = None;
    for item in access::iterate(value)?.items() {
        let key = sort_key(item, args.some(1), args.is_true(0, false))?;
        let better = match &best {
            None => true,
            Some((best, _)) if name == "min" => ops::less(&key, best)?,
            Some((best, _)) => ops::less(best, &key)?,
        };
        if better {
            best = Some((key, item.clone()));
        }
    }
    let none = || Value::undefined("No aggregated item, sequence was empty.");
    Ok(best.map_or_else(none, |(_, value)| value))
}

fn group_by(value: &Value, args: Bound<3>) -> Result<Value> {
    let case_sensitive = args.is_true(2, false);
    let found = |item: &Value| access::path(item, args.need(0)?, args.some(1));
    let items = access::iterate(value)?;
    let key = |item: &Value| sort_key(&found(item)?, None, case_sensitive);
    let keyed = items.items().iter().map(|item| Ok((key(item)?, item.clone()))).collect::<Result<_>>()?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sort_by(keyed, false)? {
        match groups.last_mut() {
            Some((last, items)) if ops::equal(last, &key)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let group = |(_, items): (Value, Vec<Value>)| {
        let shown = found(&items[0])?;
        Value::seq(Kind::Group, vec![shown, Value::list(items)?])
    };
    Value::list(groups.into_iter().map(group).collect::<Result<_>>()?)
}

fn batch(value: &Value, args: Bound<2>) -> Result<Value> {
    args.need(0)?;
    let n = args.int(0, 0)?;
    let n = usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| Error::new("batch: expected at least 1 item"))?;
    let items = access::iterate(value)?;
    let batches = items.items().chunks(n).map(|batch| {
        let mut batch = batch.to_vec();
        if let Some(fill) = args.some(1) {
            drop(meter::Charge::of((n - batch.len()).saturating_mul(size_of::<Value>()))?);
            batch.resize(n, fill.clone());
        }
        Value::list(batch)
    });
    Value::seq(Kind::Generator, batches.collect::<Result<_>>()?)
}

fn slices(value: &Value, args: Bound<2>) -> Result<Value> {
    args.need(0)?;
    let n = args.int(0, 0)?;
    let n = usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| Error::new("slice: expected at least 1 slice"))?;
    let items = access::iterate(value)?;
    let (each, extra) = (items.items().len() / n, items.items().len() % n);
    let (mut made, mut at) = (Vec::new(), 0);
    for i in 0..n {
        meter::work(1)?;
        let end = at + each + usize::from(i < extra);
        let mut slice = items.items()[at..end].to_vec();
        if let Some(fill) = args.some(1).filter(|_| i >= extra) {
            slice.push(fill.clone());
        }
        made.push(Value::list(slice)?);
        at = end;
    }
    Value::seq(Kind::Generator, made)
}
