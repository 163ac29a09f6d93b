//! Owns the JSON files of a checkpoint and the typed access to them. Refuses values of other types than asked for,
//! naming file, key, expected and found; `null` is as good as absent.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Error;
use super::read::{self, Kind};
use crate::text;

/// The text of a file; `None` where there is none.
pub(super) fn read_text(path: &Path, kind: Kind) -> Result<Option<String>, Error> {
    read::bytes_if_any(path, kind)?.map(|bytes| text_of(path, bytes)).transpose()
}

fn text_of(path: &Path, bytes: Vec<u8>) -> Result<String, Error> {
    text::decode(bytes).map_err(|e| Error::invalid(path, "text", "valid UTF-8", e))
}

/// A JSON object of a file.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    path: &'a Path,
    /// What leads to this object, with a dot behind; empty for the outermost one.
    prefix: String,
    map: &'a Map<String, Value>,
}

/// A JSON file whose outermost value is an object.
#[derive(Clone, Debug)]
pub(super) struct Document {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Document {
    /// Reads a file; `None` where there is none.
    pub(super) fn read(path: PathBuf, kind: Kind) -> Result<Option<Document>, Error> {
        let Some(bytes) = read::bytes_if_any(&path, kind)? else { return Ok(None) };
        Document::parse(path, bytes, kind).map(Some)
    }

    /// Reads a file that must be there.
    pub(super) fn need(path: PathBuf, kind: Kind) -> Result<Document, Error> {
        let bytes = read::bytes(&path, kind)?;
        Document::parse(path, bytes, kind)
    }

    fn parse(path: PathBuf, bytes: Vec<u8>, kind: Kind) -> Result<Document, Error> {
        let text = text_of(&path, bytes)?;
        let (most, found) = (kind.max_values(), most_values(&text));
        if found > most {
            return Err(Error::invalid(&path, "content", format_args!("at most {most} values"), found));
        }
        // Depth is bounded by the parser.
        match serde_json::from_str(text.trim_start_matches(BYTE_ORDER_MARK)) {
            Ok(Value::Object(map)) => Ok(Document { path, map }),
            Ok(other) => Err(Error::invalid(&path, "content", "a JSON object", self::kind(&other))),
            Err(e) => Err(Error::invalid(&path, "content", "JSON", e)),
        }
    }

    pub(super) fn root(&self) -> Object<'_> {
        Object { path: &self.path, prefix: String::new(), map: &self.map }
    }
}

/// What some editors put before a text, and no JSON has.
const BYTE_ORDER_MARK: char = '\u{FEFF}';

/// No fewer values than a JSON text holds: each but the first comes after one of these.
fn most_values(text: &str) -> usize {
    1 + text.bytes().filter(|b| matches!(b, b',' | b':' | b'[')).count()
}

impl<'a> Object<'a> {
    /// The value of a key, whatever its type; `None` for `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, `null` or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// The error for a key.
    pub(super) fn error(&self, key: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
        Error::invalid(self.path, format_args!("`{}{key}`", self.prefix), expected, found)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'a>>, Error> {
        let inner = self.typed(key, "an object", Value::as_object)?;
        Ok(inner.map(|map| Object { path: self.path, prefix: format!("{}{key}.", self.prefix), map }))
    }

    pub(super) fn array(&self, key: &str) -> Result<Option<&'a Vec<Value>>, Error> {
        self.typed(key, "an array", Value::as_array)
    }

    pub(super) fn str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an integer from 0 to 4294967295", |v| v.as_u64().and_then(|n| n.try_into().ok()))
    }

    /// A finite number.
    pub(super) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A count of at least 1 that must be there.
    pub(super) fn need_count(&self, key: &str) -> Result<usize, Error> {
        self.count(key)?.ok_or_else(|| self.error(key, "a count of at least 1", "no such key"))
    }

    /// A count of at least 1.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.u32(key)? {
            Some(0) => Err(self.error(key, "a count of at least 1", 0)),
            n => Ok(n.map(|n| n as usize)),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.error(key, expected, shown(value)))
    }
}

/// A value for a message: short ones as they are, long ones by their kind.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        Value::String(s) if s.chars().count() > 60 => "a long string".to_owned(),
        Value::String(s) => format!("`{s}`"),
        other => other.to_string(),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
