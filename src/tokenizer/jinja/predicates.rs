//! Owns the tests behind `is`.

use std::cmp::Ordering;

use super::args::Given;
use super::names::{FILTERS, TESTS};
use super::text::Text;
use super::value::{Object, Value};
use super::{Error, Result, meter, ops, repr, strings};

/// `value is name(...)`.
pub(super) fn call(name: &str, value: &Value, args: Given) -> Result<bool> {
    meter::bytes(value.as_str().map_or(0, str::len))?;
    if let Some(operator) = operator(name) {
        let args = args.bind(name, ["other"])?;
        return compared(operator, value, args.need(0)?);
    }
    match name {
        "divisibleby" => {
            let args = args.bind(name, ["num"])?;
            let rest = ops::math(super::ast::MathOp::Mod, value, args.need(0)?)?;
            ops::equal(&rest, &Value::Int(0))
        }
        "sameas" => Ok(value.is_same(args.bind(name, ["other"])?.need(0)?)),
        "in" => ops::contains(args.bind(name, ["seq"])?.need(0)?, value),
        _ => {
            args.none(name)?;
            plain(name, value)
        }
    }
}

fn operator(name: &str) -> Option<&'static str> {
    Some(match name {
        "==" | "eq" | "equalto" => "==",
        "!=" | "ne" => "!=",
        ">" | "gt" | "greaterthan" => ">",
        ">=" | "ge" => ">=",
        "<" | "lt" | "lessthan" => "<",
        "<=" | "le" => "<=",
        _ => return None,
    })
}

fn compared(operator: &str, left: &Value, right: &Value) -> Result<bool> {
    match operator {
        "==" => return ops::equal(left, right),
        "!=" => return Ok(!ops::equal(left, right)?),
        _ => {}
    }
    let order = ops::compare(left, right, operator)?;
    Ok(match operator {
        ">" => order == Some(Ordering::Greater),
        ">=" => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        "<" => order == Some(Ordering::Less),
        _ => matches!(order, Some(Ordering::Less | Ordering::Equal)),
    })
}

fn plain(name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "odd" | "even" => {
            let rest = ops::math(super::ast::MathOp::Mod, value, &Value::Int(2))?;
            ops::equal(&rest, &Value::Int(i64::from(name == "odd")))?
        }
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" => value.as_str().is_some_and(|name| FILTERS.contains(&name)),
        "test" => value.as_str().is_some_and(|name| TESTS.contains(&name)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "lower" => strings::is(repr::str(value)?.as_str(), "islower")?,
        "upper" => strings::is(repr::str(value)?.as_str(), "isupper")?,
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => match value {
            // An undefined value has a length and claims to be indexed.
            Value::Undefined(_) | Value::Str(_) | Value::Dict(_) => true,
            Value::Seq(seq) => seq.is_indexed(),
            _ => false,
        },
        "iterable" => match value {
            Value::Object(object) => matches!(&**object, Object::Loop(_)),
            other => matches!(other, Value::Undefined(_) | Value::Str(_) | Value::Dict(_) | Value::Seq(_)),
        },
        "callable" => match value {
            // Every undefined value has Python's `__call__`.
            Value::Undefined(_) | Value::Method(_) | Value::Function(_) | Value::Macro(_) => true,
            Value::Object(object) => matches!(&**object, Object::Loop(_) | Object::Joiner { .. }),
            _ => false,
        },
        "escaped" => matches!(value, Value::Str(text) if Text::is_markup(text)),
        _ => return Err(Error::new(format!("No test named '{name}'."))),
    })
}
