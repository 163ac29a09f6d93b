//! Owns the key-value pairs of a file and the typed access to them. Refuses a value whose type or range its
//! reader cannot use, naming file, key, expected and found. A number of another width or a truth value stored as a number is
//! what it says; [`Metadata::take_remarks`] tells of it.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::remarks::Remarks;
use super::{Array, Error, Value};

/// The key-value pairs of a file, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    pairs: IndexMap<String, Value>,
    remarks: Remarks,
}

impl Metadata {
    /// No pairs yet.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    pub(super) fn of_file(path: &Path) -> Metadata {
        Metadata { path: path.to_owned(), ..Metadata::default() }
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

    /// Notes what a reader made allowance for, so that it can be said once.
    pub fn remark(&self, text: impl Display) {
        self.remarks.add(text.to_string());
    }

    /// What readers made allowance for since the last call. Files and tokenizers of which this is all that is wrong are used.
    pub fn take_remarks(&self) -> Vec<String> {
        self.remarks.take()
    }

    /// An integer of any type that fits in `u32`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, U32, |v| v.as_integer().and_then(|i| i.try_into().ok()))
    }

    /// A floating-point number; `f64` is rounded, and an integer is one too.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        let number = self.typed(key, F32, Value::as_float)?;
        self.remark_other_type(key, "f32", |v| matches!(v, Value::F32(_)));
        Ok(number)
    }

    /// A truth value; 0 and 1 of an integer type are one too.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        let found = self.typed(key, "a bool", |v| match (v, v.as_integer()) {
            (Value::Bool(b), _) => Some(*b),
            (_, Some(n @ (0 | 1))) => Some(n == 1),
            _ => None,
        })?;
        self.remark_other_type(key, "bool", |v| matches!(v, Value::Bool(_)));
        Ok(found)
    }

    fn remark_other_type(&self, key: &str, expected: &str, is_of_type: impl Fn(&Value) -> bool) {
        if let Some(value) = self.get(key).filter(|value| !is_of_type(value)) {
            self.remark(format_args!("`{key}` is stored as {}, taken as {expected}", value.describe()));
        }
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
