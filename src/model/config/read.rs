//! Owns the reading of single values: counts, numbers within bounds. Refuses what is of no use, with key, expected and found.

use super::super::Error;
use super::super::arch::Arch;
use super::MAX_POSITIONS;
use crate::gguf::{File, Metadata, Value};

/// Bounds of a number of the file, both included.
#[derive(Clone, Copy)]
pub(super) struct Within {
    pub(super) least: f32,
    pub(super) most: f32,
}

/// The metadata keys of one architecture.
pub(super) struct Keys<'f> {
    pub(super) file: &'f File,
    pub(super) meta: &'f Metadata,
    pub(super) arch: &'static Arch,
}

impl Keys<'_> {
    /// A count that must be there and is at least 1.
    pub(super) fn size(&self, key: &str) -> Result<usize, Error> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A count of at least 1.
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.meta.u32(&self.key(key))? {
            Some(0) => Err(self.invalid(key, "at least 1", 0)),
            n => Ok(n.map(|n| n as usize)),
        }
    }

    /// The same, or an array with that of each layer, when all layers agree.
    pub(super) fn size_of_layers(&self, key: &str, n_layer: usize) -> Result<Option<usize>, Error> {
        let Some(Value::Array(array)) = self.meta.get(&self.key(key)) else { return self.optional_size(key) };
        let first = array.get(0).and_then(|first| first.as_integer()?.try_into().ok()).filter(|&n: &u32| n > 0);
        let Some(first) = first.filter(|_| array.len() == n_layer) else {
            let found = Value::Array(array.clone()).describe();
            return Err(self.invalid(key, &format!("a number from 1 up, or {n_layer}, one for each layer"), found));
        };
        let differs = |&i: &usize| array.get(i).and_then(|n| n.as_integer()) != Some(first.into());
        match (1..n_layer).find(differs) {
            Some(i) => {
                let expected = format!("one number for all layers ({first} in the first)");
                let found = array.get(i).map_or_else(String::new, |n| n.describe());
                Err(self.invalid(key, &expected, format!("{found} in layer {i}")))
            }
            None => Ok(Some(first as usize)),
        }
    }

    /// A number between bounds, both included: beyond them the forward pass gives NaN or nothing of use.
    pub(super) fn number(&self, key: &str, Within { least, most }: Within) -> Result<Option<f32>, Error> {
        match self.f32(key)? {
            Some(x) if !(least..=most).contains(&x) => {
                let most = if most < 1e7 { most.to_string() } else { format!("{most:e}") };
                Err(self.invalid(key, &format!("a number from {least} to {most}"), x))
            }
            x => Ok(x),
        }
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        self.invalid(key, "a number", "nothing")
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        Ok(self.meta.f32(&self.key(key))?)
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name)
    }

    pub(super) fn invalid(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        Error::unsupported(self.file, &self.key(key), expected.to_owned(), found.to_string())
    }

    pub(super) fn check_positions(&self, key: &str, n: usize) -> Result<usize, Error> {
        if n > MAX_POSITIONS {
            return Err(self.invalid(key, &format!("at most {MAX_POSITIONS} tokens"), n));
        }
        Ok(n)
    }

    pub(super) fn n_ctx_train(&self) -> Result<usize, Error> {
        self.check_positions("context_length", self.size("context_length")?)
    }
}
