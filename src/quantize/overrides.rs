//! Owns how wishes for single tensors and keys are spelled: `REGEX=TYPE` and `KEY=TYPE:VALUE`, as in llama.cpp.

use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use crate::dtype::DType;
use crate::ggml;
use crate::gguf::Value;

/// The tensors whose name matches shall have this type.
#[derive(Clone, Debug)]
pub struct TensorType {
    /// What a part of the name must match; case does not matter.
    pub name: Regex,
    /// The type.
    pub to: DType,
}

impl FromStr for TensorType {
    type Err = String;

    fn from_str(text: &str) -> Result<TensorType, String> {
        let (name, to) = text.rsplit_once('=').ok_or("expected REGEX=TYPE, as in attn_q=q8_0")?;
        if name.is_empty() {
            return Err("expected a name before `=`".into());
        }
        let name = RegexBuilder::new(name).case_insensitive(true).build().map_err(|e| e.to_string())?;
        let to = tensor_type(to).map_err(|why| format!("`{to}` is {why}"))?;
        Ok(TensorType { name, to })
    }
}

/// The type with this name, if rows can be quantized to it.
pub fn tensor_type(text: &str) -> Result<DType, String> {
    DType::from_name(text).filter(|&to| ggml::can_quantize_to(to)).ok_or_else(|| {
        let names = DType::ALL.iter().filter(|&&to| ggml::can_quantize_to(to)).map(|to| to.name());
        format!("not a type that tensors can be quantized to\nhint: one of {}", names.collect::<Vec<_>>().join(", "))
    })
}

/// A key of the metadata shall have this value.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The key.
    pub key: String,
    /// The value, of one of the types that llama.cpp lets override: u32, f32, bool or string.
    pub value: Value,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Override, String> {
        const FORM: &str = "expected KEY=TYPE:VALUE with a type of int, float, bool or str";
        let (key, typed) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or(FORM)?;
        let (kind, value) = typed.split_once(':').ok_or(FORM)?;
        let value = match kind {
            "int" => Value::U32(value.parse().map_err(|_| format!("`{value}` is no integer from 0 to {}", u32::MAX))?),
            "float" => Value::F32(value.parse().map_err(|_| format!("`{value}` is not a number"))?),
            "bool" => Value::Bool(value.parse().map_err(|_| format!("`{value}` is neither true nor false"))?),
            "str" => Value::String(value.to_owned()),
            _ => return Err(FORM.into()),
        };
        Ok(Override { key: key.to_owned(), value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_types_match_parts_of_names() {
        let wish: TensorType = r"\.(\d*[13579])\.attn_k=Q5_K".parse().unwrap();
        assert_eq!(wish.to, DType::Q5_K);
        assert!(wish.name.is_match("blk.3.attn_k.weight") && !wish.name.is_match("blk.4.attn_k.weight"));
        for bad in ["attn_k", "=q8_0", "attn_k=", "attn_k=q8_1", "(=q8_0"] {
            assert!(bad.parse::<TensorType>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overrides_have_types() {
        let value = |text: &str| text.parse::<Override>().map(|o| (o.key, o.value));
        assert_eq!(value("a.b=int:7"), Ok(("a.b".into(), Value::U32(7))));
        assert_eq!(value("a=float:0.5"), Ok(("a".into(), Value::F32(0.5))));
        assert_eq!(value("a=bool:false"), Ok(("a".into(), Value::Bool(false))));
        assert_eq!(value("a=str:x=y:z"), Ok(("a".into(), Value::String("x=y:z".into()))));
        for bad in ["a", "a=7", "=int:7", "a=int:-1", "a=int:x", "a=bool:yes", "a=u8:1"] {
            assert!(value(bad).is_err(), "{bad}");
        }
    }
}
