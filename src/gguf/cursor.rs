//! Owns reading the format's primitive fields from bytes. Refuses to read past the end, to allocate more than the
//! bytes at hand can hold, and to recurse without bound. Text that is not UTF-8 is no reason to refuse a model: llama-quantize
//! itself cuts long texts in the middle of a character.

use std::fmt::{self, Display};
use std::path::Path;

use super::{Array, Error, Value, ValueType};

/// Metadata and tensor directory must lie within this many bytes, so that a sparse file cannot make the reader
/// allocate what its size pretends. A vocabulary of a million tokens needs a fifth of it.
const MAX_HEADER_BYTES: usize = 256 << 20;

/// Arrays of arrays may be this deep.
const MAX_DEPTH: usize = 8;

/// The least an array takes in a file: its element type and its length.
const MIN_ARRAY_BYTES: usize = 12;

/// The least a string takes in a file: its length.
const MIN_STRING_BYTES: usize = 8;

/// A position in the bytes of a header. Each read names the field, for the message.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
    remarks: Vec<String>,
    /// Texts that were mended without a remark of their own.
    n_mended: usize,
}

/// More of them are counted.
const MOST_REMARKS: usize = 4;

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0, path, remarks: Vec::new(), n_mended: 0 }
    }

    /// What was made allowance for.
    pub(super) fn take_remarks(&mut self) -> Vec<String> {
        let more = (self.n_mended > 0).then(|| format!("{} more texts are not UTF-8", self.n_mended));
        std::mem::take(&mut self.remarks).into_iter().chain(more).collect()
    }

    /// The position, counted from the first byte.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn error(&self, field: &dyn Display, expected: impl Display, found: impl Display) -> Error {
        Error::invalid(self.path, field, expected, found)
    }

    pub(super) fn take<const N: usize>(&mut self, field: &dyn Display) -> Result<[u8; N], Error> {
        let bytes = self.take_bytes(N as u64, field)?;
        Ok(bytes.try_into().expect("take_bytes returns as many bytes as asked for"))
    }

    pub(super) fn u32(&mut self, field: &dyn Display) -> Result<u32, Error> {
        self.take(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &dyn Display) -> Result<u64, Error> {
        self.take(field).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each: refused when the rest of the file cannot hold them.
    pub(super) fn count(&mut self, min_bytes: usize, field: &dyn Display) -> Result<usize, Error> {
        let n = self.u64(field)?;
        let most = self.rest() / min_bytes;
        match usize::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => Err(self.error(field, format_args!("at most {most}, as many as the rest of the file can hold"), n)),
        }
    }

    /// A text; bytes that belong to no character become U+FFFD.
    pub(super) fn string(&mut self, field: &dyn Display) -> Result<String, Error> {
        let bytes = self.text_bytes(field)?;
        Ok(self.text(bytes, field, "\u{FFFD}"))
    }

    /// A key or the name of a tensor: such bytes become `?`, so that it is no longer than it was.
    pub(super) fn name(&mut self, field: &dyn Display) -> Result<String, Error> {
        let bytes = self.text_bytes(field)?;
        Ok(self.text(bytes, field, "?"))
    }

    fn text_bytes(&mut self, field: &dyn Display) -> Result<&'a [u8], Error> {
        let n = self.u64(&Of("length", field))?;
        self.take_bytes(n, field)
    }

    fn text(&mut self, bytes: &[u8], field: &dyn Display, stand_in: &str) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(e) => {
                if self.remarks.len() < MOST_REMARKS {
                    let field = field.to_string().escape_debug().to_string();
                    let at = e.valid_up_to();
                    self.remarks.push(format!("{field} is not UTF-8 from byte {at} on; `{stand_in}` stands there"));
                } else {
                    self.n_mended += 1;
                }
                let mended = |invalid: &[u8]| if invalid.is_empty() { "" } else { stand_in };
                bytes.utf8_chunks().flat_map(|chunk| [chunk.valid(), mended(chunk.invalid())]).collect()
            }
        }
    }

    pub(super) fn value(&mut self, field: &dyn Display) -> Result<Value, Error> {
        Ok(match self.value_type(field)? {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.take(field)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.take(field)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.take(field)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.take(field)?)),
            ValueType::U32 => Value::U32(self.u32(field)?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.take(field)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.take(field)?)),
            ValueType::Bool => Value::Bool(self.bools(1, field)?[0]),
            ValueType::String => Value::String(self.string(field)?),
            ValueType::Array => Value::Array(self.array(1, field)?),
            ValueType::U64 => Value::U64(self.u64(field)?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.take(field)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.take(field)?)),
        })
    }

    fn array(&mut self, depth: usize, field: &dyn Display) -> Result<Array, Error> {
        if depth > MAX_DEPTH {
            return Err(self.error(field, format_args!("at most {MAX_DEPTH} arrays within each other"), "more"));
        }
        let element = self.value_type(&Of("elements", field))?;
        let length = &Of("length", field);
        Ok(match element {
            ValueType::U8 => Array::U8(self.numbers(field, u8::from_le_bytes)?),
            ValueType::I8 => Array::I8(self.numbers(field, i8::from_le_bytes)?),
            ValueType::U16 => Array::U16(self.numbers(field, u16::from_le_bytes)?),
            ValueType::I16 => Array::I16(self.numbers(field, i16::from_le_bytes)?),
            ValueType::U32 => Array::U32(self.numbers(field, u32::from_le_bytes)?),
            ValueType::I32 => Array::I32(self.numbers(field, i32::from_le_bytes)?),
            ValueType::F32 => Array::F32(self.numbers(field, f32::from_le_bytes)?),
            ValueType::U64 => Array::U64(self.numbers(field, u64::from_le_bytes)?),
            ValueType::I64 => Array::I64(self.numbers(field, i64::from_le_bytes)?),
            ValueType::F64 => Array::F64(self.numbers(field, f64::from_le_bytes)?),
            ValueType::Bool => {
                let n = self.count(1, length)?;
                Array::Bool(self.bools(n, field)?)
            }
            ValueType::String => {
                let n = self.count(MIN_STRING_BYTES, length)?;
                Array::String(self.elements(n, field, |c, field| c.string(field))?)
            }
            ValueType::Array => {
                let n = self.count(MIN_ARRAY_BYTES, length)?;
                Array::Array(self.elements(n, field, |c, field| c.array(depth + 1, field))?)
            }
        })
    }

    fn elements<T>(
        &mut self,
        n: usize,
        field: &dyn Display,
        read: impl Fn(&mut Self, &dyn Display) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        // `count` has bounded `n` by the bytes at hand.
        let mut all = Vec::with_capacity(n);
        for i in 0..n {
            all.push(read(self, &Element(field, i))?);
        }
        Ok(all)
    }

    fn numbers<T, const N: usize>(
        &mut self,
        field: &dyn Display,
        from_le_bytes: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let n = self.count(N, &Of("length", field))?;
        let bytes = self.take_bytes((n * N) as u64, field)?;
        Ok(bytes.as_chunks().0.iter().map(|&chunk| from_le_bytes(chunk)).collect())
    }

    fn bools(&mut self, n: usize, field: &dyn Display) -> Result<Vec<bool>, Error> {
        let bytes = self.take_bytes(n as u64, field)?;
        match bytes.iter().find(|&&b| b > 1) {
            Some(b) => Err(self.error(field, "a bool of 0 or 1", b)),
            None => Ok(bytes.iter().map(|&b| b == 1).collect()),
        }
    }

    fn value_type(&mut self, field: &dyn Display) -> Result<ValueType, Error> {
        let field = &Of("type", field);
        let id = self.u32(field)?;
        ValueType::from_id(id).ok_or_else(|| self.error(field, "a value type from 0 to 12", id))
    }

    fn take_bytes(&mut self, n: u64, field: &dyn Display) -> Result<&'a [u8], Error> {
        let rest = self.rest();
        let Some(n) = usize::try_from(n).ok().filter(|&n| n <= rest) else {
            return Err(self.too_short(n, field));
        };
        let bytes = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    fn too_short(&self, n: u64, field: &dyn Display) -> Error {
        if self.bytes.len() > MAX_HEADER_BYTES {
            let expected = format!("metadata and tensor directory within the first {MAX_HEADER_BYTES} bytes");
            return self.error(field, expected, format_args!("{n} more bytes at byte {}", self.at));
        }
        let expected = format!("{n} bytes at byte {}", self.at);
        self.error(field, expected, format_args!("{} before the end of the file", self.rest()))
    }

    fn rest(&self) -> usize {
        self.bytes.len().min(MAX_HEADER_BYTES) - self.at
    }
}

/// `length of KEY`, formatted only when a message needs it.
struct Of<'a>(&'static str, &'a dyn Display);

impl Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.0, self.1)
    }
}

/// `element 3 of KEY`, formatted only when a message needs it.
struct Element<'a>(&'a dyn Display, usize);

impl Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {} of {}", self.1, self.0)
    }
}
