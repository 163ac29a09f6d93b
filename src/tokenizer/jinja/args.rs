//! Owns the arguments of one call, and how they meet parameters.

use super::text::Text;
use super::value::{Dict, Value};
use super::{Error, Result, repr};

/// Evaluated arguments.
#[derive(Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Given {
    /// Meets these parameters by place and name, any of which may be left out.
    pub(super) fn bind<const N: usize>(self, who: &str, params: [&str; N]) -> Result<Bound<N>> {
        if self.positional.len() > N {
            let given = self.positional.len();
            return Err(Error::new(format!("{who}: expected at most {N} arguments, found {given}")));
        }
        let mut values: [Option<Value>; N] = [const { None }; N];
        for (place, value) in values.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = params.iter().position(|param| *param == name);
            let place = place.ok_or_else(|| Error::new(format!("{who}: unexpected keyword argument '{name}'")))?;
            if values[place].replace(value).is_some() {
                return Err(Error::new(format!("{who}: got multiple values for argument '{name}'")));
            }
        }
        Ok(Bound { who: who.to_owned(), params: params.map(str::to_owned), values })
    }

    pub(super) fn none(self, who: &str) -> Result<()> {
        self.bind::<0>(who, []).map(|_| ())
    }

    /// The named ones as a dict.
    pub(super) fn named_dict(&self) -> Result<Dict> {
        let mut dict = Dict::empty();
        for (name, value) in &self.named {
            dict.insert(Value::text(name.as_str())?, value.clone())?;
        }
        Ok(dict)
    }
}

/// Arguments beside the parameters that they belong to.
pub(super) struct Bound<const N: usize> {
    who: String,
    params: [String; N],
    values: [Option<Value>; N],
}

impl<const N: usize> Bound<N> {
    /// The argument, if it is given.
    pub(super) fn value(&self, i: usize) -> Option<&Value> {
        self.values[i].as_ref()
    }

    /// The argument, unless it is left out or none.
    pub(super) fn some(&self, i: usize) -> Option<&Value> {
        self.value(i).filter(|value| !matches!(value, Value::None))
    }

    pub(super) fn need(&self, i: usize) -> Result<&Value> {
        let missing = || Error::new(format!("{}: missing argument '{}'", self.who, self.params[i]));
        self.value(i).ok_or_else(missing)
    }

    pub(super) fn is_true(&self, i: usize, default: bool) -> bool {
        self.value(i).map_or(default, Value::is_true)
    }

    pub(super) fn int(&self, i: usize, default: i64) -> Result<i64> {
        let Some(value) = self.value(i) else { return Ok(default) };
        value.as_int().ok_or_else(|| self.wrong(i, "a whole number", value))
    }

    /// A whole number, unless it is left out or none.
    pub(super) fn some_int(&self, i: usize) -> Result<Option<i64>> {
        self.some(i).map(|value| value.as_int().ok_or_else(|| self.wrong(i, "a whole number", value))).transpose()
    }

    /// A text, unless it is left out or none.
    pub(super) fn some_text(&self, i: usize) -> Result<Option<&Text>> {
        match self.some(i) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(i, "a text", other)),
        }
    }

    pub(super) fn text(&self, i: usize) -> Result<&Text> {
        match self.need(i)? {
            Value::Str(text) => Ok(text),
            other => Err(self.wrong(i, "a text", other)),
        }
    }

    /// `str()` of the argument, whatever it is.
    pub(super) fn as_text(&self, i: usize) -> Result<Text> {
        repr::str(self.need(i)?)
    }

    fn wrong(&self, i: usize, expected: &str, found: &Value) -> Error {
        if let Value::Undefined(message) = found {
            return Error::new(&**message);
        }
        let (who, param, found) = (&self.who, &self.params[i], found.type_name());
        Error::new(format!("{who}: '{param}': expected {expected}, found {found}"))
    }
}
