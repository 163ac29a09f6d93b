//! Owns the key-value pairs of a file and the typed access to them. Refuses a value whose type or range its
//! reader cannot use, naming file, key, expected and found.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::{Array, Error, Value};

/// The key-value pairs of a file, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    pairs: IndexMap<String, Value>,
}

impl Metadata {
    /// No pairs yet.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    pub(super) fn of_file(path: &Path) -> Metadata {
        Metadata { path: path.to_owned(), pairs: IndexMap::new() }
    }

    /// The file the pairs were read from; empty for metadata made in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// All pairs, in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Sets a key; a key that exists keeps its place. Returns the value it had.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.pairs.insert(key.into(), value.into())
    }

    /// Removes a key; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.pairs.shift_remove(key)
    }

    /// An integer of any type that fits in `u32`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, U32, |v| v.as_integer().and_then(|i| i.try_into().ok()))
    }

    /// A floating-point number; `f64` is rounded.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, F32, |v| match *v {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", |v| match *v {
            Value::Bool(b) => Some(b),
            _ => None,
        })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, STR, |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.typed(key, STRINGS, |v| match v {
            Value::Array(Array::String(a)) => Some(a.as_slice()),
            _ => None,
        })
    }

    /// An array of `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, Error> {
        self.typed(key, "an array of f32", |v| match v {
            Value::Array(Array::F32(a)) => Some(a.as_slice()),
            _ => None,
        })
    }

    /// An array of `i32`.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, Error> {
        self.typed(key, "an array of i32", |v| match v {
            Value::Array(Array::I32(a)) => Some(a.as_slice()),
            _ => None,
        })
    }

    /// As [`Metadata::u32`]; a missing key is an error.
    pub fn need_u32(&self, key: &str) -> Result<u32, Error> {
        self.need(key, U32, self.u32(key)?)
    }

    /// As [`Metadata::f32`]; a missing key is an error.
    pub fn need_f32(&self, key: &str) -> Result<f32, Error> {
        self.need(key, F32, self.f32(key)?)
    }

    /// As [`Metadata::str`]; a missing key is an error.
    pub fn need_str(&self, key: &str) -> Result<&str, Error> {
        self.need(key, STR, self.str(key)?)
    }

    /// As [`Metadata::strings`]; a missing key is an error.
    pub fn need_strings(&self, key: &str) -> Result<&[String], Error> {
        self.need(key, STRINGS, self.strings(key)?)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let found = || Error::invalid(&self.path, format_args!("`{key}`"), expected, value.describe());
        convert(value).map(Some).ok_or_else(found)
    }

    fn need<T>(&self, key: &str, expected: &'static str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| Error::MissingKey { path: self.path.clone(), key: key.to_owned(), expected })
    }
}

const U32: &str = "an integer from 0 to 4294967295";
const F32: &str = "a floating-point number";
const STR: &str = "a string";
const STRINGS: &str = "an array of strings";
