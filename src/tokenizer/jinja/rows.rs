//! Rows of data sets: their fields as values, and expressions over them.

use serde_json::Value as Json;

use super::lexer::{self, Whitespace};
use super::parser::Parser;
use super::value::{Dict, Value};
use super::{Data, Error, Result, ast, check_size, meter, on_deep_stack, repr, run};

/// A parsed expression.
pub(crate) struct Expression(ast::Expr);

impl Expression {
    pub(crate) fn parse(source: &str) -> Result<Expression> {
        check_size(source)?;
        let parse = || Parser::new(lexer::tokens(source, Whitespace::default(), true)?).single_expression();
        on_deep_stack(parse)?.map(Expression)
    }

    /// The value for the fields of a row; `None` where it is undefined.
    pub(crate) fn eval(&self, row: &Json) -> Result<Option<Json>> {
        let fields = fields(row);
        on_deep_stack(|| {
            run(&fields, true, |run, root| match run.value(&self.0, root)? {
                Value::Undefined(_) => Ok(None),
                value => to_json(&value).map(Some),
            })
        })?
    }
}

/// The fields of a row, by name.
pub(crate) fn fields(row: &Json) -> Vec<(&str, Data<'_>)> {
    row.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), Data::Json(value))).collect()
}

pub(super) fn from_json(json: &Json) -> Result<Value> {
    meter::work(1)?;
    match json {
        Json::Null => Ok(Value::None),
        Json::Bool(b) => Ok(Value::Bool(*b)),
        Json::Number(n) => Ok(n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int)),
        Json::String(text) => Value::text(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(from_json).collect::<Result<_>>()?),
        Json::Object(entries) => {
            let mut dict = Dict::empty();
            for (key, value) in entries {
                dict.insert(Value::text(key.as_str())?, from_json(value)?)?;
            }
            Ok(dict.into_value())
        }
    }
}

/// The JSON of a value; an error for what JSON cannot say.
fn to_json(value: &Value) -> Result<Json> {
    let _level = meter::deeper()?;
    Ok(match value {
        Value::None => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => (*n).into(),
        Value::Float(x) => (*x).into(),
        Value::Str(text) => text.as_str().into(),
        Value::Seq(seq) => Json::Array(seq.items().iter().map(to_json).collect::<Result<_>>()?),
        Value::Dict(dict) => {
            let entry = |(key, value): &(Value, Value)| Ok((repr::str(key)?.as_str().to_owned(), to_json(value)?));
            Json::Object(dict.entries.values().map(entry).collect::<Result<_>>()?)
        }
        other => return Err(Error::new(format!("expected a value, found a {}", other.type_name()))),
    })
}
