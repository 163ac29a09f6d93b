//! Owns everything before the tensor data of one file: version, metadata, tensor directory. Refuses duplicates,
//! misaligned, overlapping and out-of-range data, and types that ggml does not know.

use std::collections::HashSet;
use std::path::Path;

use super::cursor::Cursor;
use super::tensor::{MAX_DIMS, MAX_NAME_BYTES};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Error, MAGIC, MAX_ALIGNMENT, Metadata, TensorInfo, VERSION};
use crate::dtype::DType;

/// The format's limit on the length of a key.
pub(super) const MAX_KEY_BYTES: usize = 65535;

/// The least a pair takes in a file: key length, one byte of key, value type, one byte of value.
const MIN_PAIR_BYTES: usize = 8 + 1 + 4 + 1;

/// The least a directory entry takes: name length, one byte of name, dimension count, type, offset.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 4 + 8;

/// The checked header of one file: every tensor's data lies within the file, aligned, and overlaps no other.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The format version, 2 or 3.
    pub version: u32,
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensor directory, in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// The alignment of tensor data.
    pub alignment: usize,
}

impl Header {
    /// Reads and checks the header of the file whose bytes are given; `path` is for the messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header, Error> {
        let mut c = Cursor::new(path, bytes);
        let version = read_version(&mut c)?;
        let n_tensors = c.count(MIN_ENTRY_BYTES, &"tensor count")?;
        let n_pairs = c.count(MIN_PAIR_BYTES, &"metadata count")?;
        let metadata = read_metadata(&mut c, path, n_pairs)?;
        let alignment = alignment(path, &metadata)?;
        let mut tensors = read_directory(&mut c, path, n_tensors)?;
        c.take_remarks().into_iter().for_each(|text| metadata.remark(text));
        place(path, &mut tensors, c.position(), alignment, bytes.len())?;
        check_overlap(path, &tensors)?;
        Ok(Header { version, metadata, tensors, alignment })
    }
}

/// The alignment that the metadata asks for.
pub(super) fn alignment(path: &Path, metadata: &Metadata) -> Result<usize, Error> {
    let alignment = metadata.u32(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    match usize::try_from(alignment) {
        Ok(n) if n.is_power_of_two() && alignment <= MAX_ALIGNMENT => Ok(n),
        _ => {
            let expected = format!("a power of two up to {MAX_ALIGNMENT}");
            Err(Error::invalid(path, format_args!("`{ALIGNMENT_KEY}`"), expected, alignment))
        }
    }
}

/// Refuses a name that ggml could not hold.
pub(super) fn check_name(path: &Path, name: &str) -> Result<(), Error> {
    check_length(path, "tensor name", name, MAX_NAME_BYTES)
}

/// Refuses a key that the format does not allow.
pub(super) fn check_key(path: &Path, key: &str) -> Result<(), Error> {
    check_length(path, "metadata key", key, MAX_KEY_BYTES)
}

/// The error for a name that occurs twice.
pub(super) fn duplicate(path: &Path, what: &str, name: &str) -> Error {
    Error::invalid(path, format_args!("{what} `{name}`"), "it once", "it twice")
}

fn check_length(path: &Path, what: &str, text: &str, max: usize) -> Result<(), Error> {
    if (1..=max).contains(&text.len()) {
        return Ok(());
    }
    let start: String = text.chars().take(80).collect();
    let found = format!("{} bytes: `{start}`", text.len());
    Err(Error::invalid(path, what, format_args!("1 to {max} bytes"), found))
}

fn read_version(c: &mut Cursor) -> Result<u32, Error> {
    let magic: [u8; 4] = c.take(&"magic")?;
    if magic != MAGIC {
        let found = format!("`{}`", magic.escape_ascii());
        return Err(c.error(&"magic", "`GGUF`", found).with_hint("this is no GGUF file"));
    }
    let version = c.u32(&"version")?;
    if (2..=VERSION).contains(&version) {
        return Ok(version);
    }
    if (1..=VERSION).contains(&version.swap_bytes()) {
        let hint = "convert the model again for a little-endian machine";
        return Err(c.error(&"byte order", "little endian", "a big-endian file").with_hint(hint));
    }
    Err(c.error(&"version", "2 or 3", version))
}

fn read_metadata(c: &mut Cursor, path: &Path, n: usize) -> Result<Metadata, Error> {
    let mut metadata = Metadata::of_file(path);
    for i in 0..n {
        let key = c.name(&format_args!("metadata key {i}"))?;
        check_key(path, &key)?;
        let value = c.value(&format_args!("`{key}`"))?;
        if metadata.get(&key).is_some() {
            return Err(duplicate(path, "metadata key", &key));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_directory(c: &mut Cursor, path: &Path, n: usize) -> Result<Vec<TensorInfo>, Error> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for i in 0..n {
        let tensor = read_entry(c, path, i)?;
        if !names.insert(tensor.name.clone()) {
            return Err(duplicate(path, "tensor", &tensor.name));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// Reads one entry; `start` is still the offset within the data section.
fn read_entry(c: &mut Cursor, path: &Path, i: usize) -> Result<TensorInfo, Error> {
    let name = c.name(&format_args!("name of tensor {i}"))?;
    check_name(path, &name)?;
    let dims = read_dims(c, &name)?;
    let dtype = read_dtype(c, &name)?;
    let offset = read_usize(c, "offset", &name)?;
    let mut tensor = TensorInfo::new(path, name, &dims, dtype)?;
    tensor.start = offset;
    Ok(tensor)
}

fn read_dims(c: &mut Cursor, name: &str) -> Result<Vec<usize>, Error> {
    let field = &format_args!("dimensions of tensor `{name}`");
    let n = c.u32(field)?;
    if n as usize > MAX_DIMS {
        return Err(c.error(field, format_args!("at most {MAX_DIMS}"), n));
    }
    (0..n).map(|_| read_usize(c, "shape", name)).collect()
}

fn read_usize(c: &mut Cursor, what: &str, name: &str) -> Result<usize, Error> {
    let field = &format_args!("{what} of tensor `{name}`");
    let n = c.u64(field)?;
    usize::try_from(n).map_err(|_| c.error(field, "a number that fits in memory", n))
}

fn read_dtype(c: &mut Cursor, name: &str) -> Result<DType, Error> {
    let field = &format_args!("type of tensor `{name}`");
    let id = c.u32(field)?;
    DType::from_id(id).ok_or_else(|| {
        let known: Vec<_> = DType::ALL.iter().map(|t| format!("{} {t}", t.id())).collect();
        c.error(field, format_args!("one of {}", known.join(", ")), id)
    })
}

/// Turns offsets within the data section into places in the file, and checks them.
fn place(
    path: &Path,
    tensors: &mut [TensorInfo],
    header_bytes: usize,
    alignment: usize,
    file_bytes: usize,
) -> Result<(), Error> {
    let data_start = header_bytes.checked_next_multiple_of(alignment);
    for t in tensors {
        if !t.start.is_multiple_of(alignment) {
            let field = format!("offset of tensor `{}`", t.name);
            return Err(Error::invalid(path, field, format_args!("a multiple of {alignment}"), t.start));
        }
        let start = data_start.and_then(|s| s.checked_add(t.start));
        match start.and_then(|s| s.checked_add(t.bytes)) {
            Some(end) if end <= file_bytes => t.start = end - t.bytes,
            _ => return Err(beyond_end(path, t, file_bytes)),
        }
    }
    Ok(())
}

fn beyond_end(path: &Path, t: &TensorInfo, file_bytes: usize) -> Error {
    let field = format!("data of tensor `{}`", t.name);
    let expected = format!("{} bytes at data offset {}", t.bytes, t.start);
    Error::invalid(path, field, expected, format_args!("the end of the file at byte {file_bytes}"))
        .with_hint("the file may be truncated: copy or download it again")
}

fn check_overlap(path: &Path, tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut by_start: Vec<_> = tensors.iter().filter(|t| t.bytes > 0).collect();
    by_start.sort_by_key(|t| t.start);
    for pair in by_start.windows(2) {
        let end = pair[0].start + pair[0].bytes;
        if end > pair[1].start {
            let field = format!("data of tensor `{}`", pair[1].name);
            let expected = format!("a start at byte {end} or later, behind tensor `{}`", pair[0].name);
            return Err(Error::invalid(path, field, expected, format_args!("byte {}", pair[1].start)));
        }
    }
    Ok(())
}
