//! Owns reading a safetensors file: eight bytes of length, a JSON directory, the data. Refuses directories whose
//! tensors overlap, leave holes, or do not end where the file ends.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Error;
use super::checkpoint::{Shard, Source, size};
use super::element::Element;
use super::json::shown;

/// The format's own limit on the length of the directory.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors of a file, by name.
pub(super) fn open(shard: Arc<Shard>) -> Result<Vec<(String, Source)>, Error> {
    let path = shard.path().to_owned();
    let (header, data) = read_header(&shard)?;
    let mut tensors = Vec::with_capacity(header.len());
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let (element, shape, start) = entry_of(&path, name, entry, shard.bytes() - data)?;
        let source = Source { element, shape, shard: shard.clone(), offset: data + start };
        tensors.push((name.clone(), source));
    }
    check_tiling(&path, &tensors, data, shard.bytes())?;
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}

/// The directory, and where the data begins.
fn read_header(shard: &Shard) -> Result<(Map<String, Value>, u64), Error> {
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
        Ok(Value::Object(map)) => Ok((map, 8 + length)),
        Ok(other) => Err(Error::invalid(path, "header", "a JSON object", shown(&other))),
        Err(e) => Err(Error::invalid(path, "header", "JSON", e)),
    }
}

/// Type, shape, and where the data starts, counted from the first byte of all data.
fn entry_of(path: &Path, name: &str, entry: &Value, n_data: u64) -> Result<(Element, Vec<usize>, u64), Error> {
    let invalid = |what: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
        Error::invalid(path, format_args!("`{what}` of tensor `{name}`"), expected, found)
    };
    let value = |key: &str| entry.get(key).unwrap_or(&Value::Null);
    let element = match value("dtype").as_str() {
        Some("F64") => Element::F64,
        Some("F32") => Element::F32,
        Some("F16") => Element::F16,
        Some("BF16") => Element::Bf16,
        _ => {
            let error = invalid("dtype", &"`F32`, `F16`, `BF16` or `F64`", &shown(value("dtype")));
            return Err(error.with_hint("quantized checkpoints are not converted: take the unquantized one"));
        }
    };
    let numbers = |key: &str| -> Option<Vec<u64>> { value(key).as_array()?.iter().map(Value::as_u64).collect() };
    let shape = numbers("shape").and_then(|s| s.into_iter().map(|d| usize::try_from(d).ok()).collect());
    let shape: Vec<usize> = shape.ok_or_else(|| invalid("shape", &"an array of counts", &value("shape")))?;
    let Some([start, end]) = numbers("data_offsets").and_then(|o| <[u64; 2]>::try_from(o).ok()) else {
        return Err(invalid("data_offsets", &"two counts of bytes", &value("data_offsets")));
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
