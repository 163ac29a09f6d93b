//! Owns reading a safetensors file: eight bytes of length, a JSON directory, the data. Refuses directories whose
//! tensors overlap, leave holes, or do not end where the file ends.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Error;
use super::element::Element;
use super::shard::{MAX_TENSORS, Shard, Source, size};

/// The format's own limit on the length of the directory.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// No tensor has more dimensions.
const MAX_DIMS: usize = 8;

/// The tensors of a file, by name.
pub(super) fn open(shard: Arc<Shard>) -> Result<Vec<(String, Source)>, Error> {
    let path = shard.path().to_owned();
    let (header, data) = read_header(&shard)?;
    let mut tensors = Vec::with_capacity(header.0.len());
    for (name, entry) in header.0 {
        let (element, shape, start) = entry_of(&path, &name, &entry, shard.bytes() - data)?;
        tensors.push((name, Source { element, shape, shard: shard.clone(), offset: data + start }));
    }
    check_tiling(&path, &tensors, data, shard.bytes())?;
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}

/// The directory, and where the data begins.
fn read_header(shard: &Shard) -> Result<(Directory, u64), Error> {
    let path = shard.path();
    let mut length = [0; 8];
    if shard.bytes() < 8 {
        return Err(Error::invalid(path, "size", "at least 8 bytes", shard.bytes()));
    }
    shard.read(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    let most = (shard.bytes() - 8).min(MAX_HEADER_BYTES);
    if length > most {
        return Err(Error::invalid(path, "length of the header", format_args!("at most {most} bytes"), length));
    }
    let mut header = vec![0; length as usize];
    shard.read(8, &mut header)?;
    match serde_json::from_slice(&header) {
        Ok(directory) => Ok((directory, 8 + length)),
        Err(e) if e.is_data() => Err(Error::invalid(path, "header", "a JSON object of tensors", e)),
        Err(e) => Err(Error::invalid(path, "header", "JSON", e)),
    }
}

/// Type, shape, and where the data starts, counted from the first byte of all data.
fn entry_of(path: &Path, name: &str, entry: &Entry, n_data: u64) -> Result<(Element, Vec<usize>, u64), Error> {
    let invalid = |what: &str, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
        Error::invalid(path, format_args!("`{what}` of tensor `{name}`"), expected, found)
    };
    let element = match &entry.dtype {
        Field::Text(text) if text == "F64" => Element::F64,
        Field::Text(text) if text == "F32" => Element::F32,
        Field::Text(text) if text == "F16" => Element::F16,
        Field::Text(text) if text == "BF16" => Element::Bf16,
        other => {
            let error = invalid("dtype", &"`F32`, `F16`, `BF16` or `F64`", other);
            return Err(error.with_hint("quantized checkpoints are not converted: take the unquantized one"));
        }
    };
    let shape = entry.shape.counts().and_then(|s| s.iter().map(|&d| usize::try_from(d).ok()).collect());
    let shape: Vec<usize> = shape.ok_or_else(|| invalid("shape", &"an array of counts", &entry.shape))?;
    let Some(&[start, end]) = entry.data_offsets.counts() else {
        return Err(invalid("data_offsets", &"two counts of bytes", &entry.data_offsets));
    };
    if start > end || end > n_data {
        let expected = format!("a range of the {n_data} bytes of data");
        return Err(invalid("data_offsets", &expected, &format_args!("[{start}, {end}]")));
    }
    match size(&shape, element) {
        Some(n) if n == end - start => Ok((element, shape, start)),
        n => {
            let expected = n.map_or("a size that fits".to_owned(), |n| format!("{n} bytes for the shape {shape:?}"));
            Err(invalid("data_offsets", &expected, &(end - start)))
        }
    }
}

/// The tensors as the directory has them. What it says besides takes no memory.
struct Directory(Vec<(String, Entry)>);

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    dtype: Field,
    #[serde(default)]
    shape: Field,
    #[serde(default)]
    data_offsets: Field,
}

/// A value as far as a directory needs it.
#[derive(Default)]
enum Field {
    #[default]
    None,
    Text(String),
    Counts(Vec<u64>),
    Other(&'static str),
}

impl Field {
    fn counts(&self) -> Option<&[u64]> {
        match self {
            Field::Counts(counts) => Some(counts),
            _ => None,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Field::None => f.write_str("no such key"),
            Field::Text(text) => write!(f, "`{text}`"),
            Field::Counts(counts) => write!(f, "{counts:?}"),
            Field::Other(what) => f.write_str(what),
        }
    }
}

impl<'de> Deserialize<'de> for Directory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Directory, D::Error> {
        deserializer.deserialize_map(DirectoryVisitor)
    }
}

struct DirectoryVisitor;

impl<'de> Visitor<'de> for DirectoryVisitor {
    type Value = Directory;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Directory, A::Error> {
        let mut all = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if all.len() == MAX_TENSORS {
                return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
            all.push((name, map.next_value()?));
        }
        Ok(Directory(all))
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other("true or false"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        let short = text.chars().count() <= 60;
        Ok(if short { Field::Text(text.to_owned()) } else { Field::Other("a long string") })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        let (mut counts, mut valid) = (Vec::new(), true);
        while let Some(item) = items.next_element::<Count>()? {
            valid &= item.0.is_some() && counts.len() < MAX_DIMS;
            if let (Some(count), true) = (item.0, valid) {
                counts.push(count);
            }
        }
        Ok(if valid { Field::Counts(counts) } else { Field::Other("an array of something else") })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

/// An item of an array, if it is a count.
struct Count(Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_u64<E>(self, n: u64) -> Result<Count, E> {
        Ok(Count(Some(n)))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Count, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }
}

/// The format demands that the tensors follow each other without a gap, up to the end of the file.
fn check_tiling(path: &Path, tensors: &[(String, Source)], data: u64, end: u64) -> Result<(), Error> {
    let bytes = |source: &Source| size(&source.shape, source.element).unwrap_or(0);
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, source)| (source.offset, bytes(source)));
    let mut at = data;
    for (name, source) in order {
        if source.offset != at {
            let field = format_args!("start of tensor `{name}`");
            return Err(Error::invalid(
                path,
                field,
                format_args!("byte {at}, where the one before ends"),
                source.offset,
            ));
        }
        at += bytes(source);
    }
    if at != end {
        return Err(Error::invalid(path, "size", format_args!("{at} bytes, where the last tensor ends"), end));
    }
    Ok(())
}
