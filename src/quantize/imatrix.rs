//! Owns importance matrices: for the columns of each tensor the mean square of what is multiplied with them. Reads the GGUF
//! files and the older `.dat` files of llama.cpp's llama-imatrix; refuses numbers that are no mean squares.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Error;
use crate::dtype::DType;
use crate::files;
use crate::gguf::{self, File, TensorInfo};

/// The largest file of the older format: a number for each column of each matrix of the largest models, some times over.
const LEGACY_BYTES: u64 = 2 << 30;

/// The importance of the columns of a model's tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    path: PathBuf,
    entries: HashMap<String, Vec<f32>>,
    dataset: Option<String>,
    n_chunks: u32,
}

impl Imatrix {
    /// Reads a file of either format.
    pub fn open(path: &Path) -> Result<Imatrix, Error> {
        let mut magic = [0; 4];
        let io = |source| gguf::Error::Io { path: path.to_owned(), action: "open", source };
        let mut file = files::open_regular(path).map_err(io)?;
        let is_gguf = file.read_exact(&mut magic).is_ok() && magic == *b"GGUF";
        let imatrix = match is_gguf {
            true => read_gguf(&File::open(path)?)?,
            false => Legacy::read(path, &files::read_regular(path, LEGACY_BYTES).map_err(io)?)?,
        };
        imatrix.check()?;
        Ok(imatrix)
    }

    /// A matrix with these entries.
    #[cfg(test)]
    pub(super) fn of(entries: impl Iterator<Item = (String, Vec<f32>)>) -> Imatrix {
        Imatrix { entries: entries.collect(), ..Imatrix::default() }
    }

    /// Keeps the entries of tensors whose name contains one of the texts.
    pub fn include(&mut self, parts: &[String]) {
        self.entries.retain(|name, _| parts.iter().any(|part| name.contains(part.as_str())));
    }

    /// Drops the entries of tensors whose name contains one of the texts.
    pub fn exclude(&mut self, parts: &[String]) {
        self.entries.retain(|name, _| !parts.iter().any(|part| name.contains(part.as_str())));
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text that it was made of, if the file says so.
    pub fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// How many pieces of text it was made of; 0 when unknown.
    pub fn n_chunks(&self) -> u32 {
        self.n_chunks
    }

    /// How many tensors have an entry.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no tensor has an entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The importance of a tensor's columns, expert after expert.
    pub fn get(&self, tensor: &str) -> Option<&[f32]> {
        self.entries.get(tensor).map(Vec::as_slice)
    }

    fn check(&self) -> Result<(), Error> {
        if self.entries.is_empty() {
            return Err(invalid(&self.path, "importance matrix", "at least one entry", "none"));
        }
        for (name, values) in &self.entries {
            if let Some(x) = values.iter().find(|x| !x.is_finite() || **x < 0.0) {
                return Err(invalid(&self.path, format!("importance of `{name}`"), "finite numbers from 0 up", x));
            }
        }
        Ok(())
    }
}

fn invalid(path: &Path, field: impl ToString, expected: impl ToString, found: impl ToString) -> Error {
    let [field, expected, found] = [field.to_string(), expected.to_string(), found.to_string()];
    Error::Imatrix { path: path.to_owned(), field, expected, found }
}

/// Sums of squares `NAME.in_sum2` `[columns, experts]` and how often each expert was asked, `NAME.counts` `[1, experts]`.
fn read_gguf(file: &File) -> Result<Imatrix, Error> {
    let metadata = file.metadata();
    // llama.cpp wants all three; without them the file is something else, a model perhaps.
    metadata.need_strings("imatrix.datasets")?;
    metadata.need_u32("imatrix.chunk_size")?;
    let n_chunks = metadata.need_u32("imatrix.chunk_count")?;
    let dataset = metadata.strings("imatrix.datasets")?.and_then(|all| all.first().cloned());
    let mut pairs: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    for tensor in file.tensors() {
        for (i, suffix) in [".in_sum2", ".counts"].into_iter().enumerate() {
            if let Some(name) = tensor.name.strip_suffix(suffix) {
                pairs.entry(name).or_default()[i] = Some(tensor);
            }
        }
    }
    let mut entries = HashMap::new();
    for (name, pair) in pairs {
        let [Some(sums), Some(counts)] = pair else {
            return Err(invalid(
                file.path(),
                format!("entry `{name}`"),
                "both `.in_sum2` and `.counts`",
                "one of them",
            ));
        };
        let (sums, counts) = (floats(file, sums)?, floats(file, counts)?);
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            let expected = format!("a multiple of {} sums, one per expert and column", counts.len());
            return Err(invalid(file.path(), format!("entry `{name}`"), expected, sums.len()));
        }
        if !sums.is_empty() {
            entries.insert(name.to_owned(), means(&sums, &counts));
        }
    }
    Ok(Imatrix { path: file.path().to_owned(), entries, dataset, n_chunks })
}

fn floats(file: &File, tensor: &TensorInfo) -> Result<Vec<f32>, Error> {
    if tensor.dtype != DType::F32 {
        return Err(invalid(file.path(), format!("type of tensor `{}`", tensor.name), DType::F32, tensor.dtype));
    }
    Ok(file.data(tensor).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

/// An expert that was never asked says nothing: its columns count alike.
fn means(sums: &[f32], counts: &[f32]) -> Vec<f32> {
    let n = sums.len() / counts.len();
    let mean = |(sums, count): (&[f32], &f32)| {
        let count = count.round();
        sums.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect::<Vec<f32>>()
    };
    sums.chunks(n.max(1)).zip(counts).flat_map(mean).collect()
}

/// A file of before GGUF: little-endian counts, names and sums, one after the other.
struct Legacy<'a> {
    path: &'a Path,
    rest: &'a [u8],
}

impl<'a> Legacy<'a> {
    fn read(path: &'a Path, bytes: &'a [u8]) -> Result<Imatrix, Error> {
        let mut file = Legacy { path, rest: bytes };
        let n_entries = file.count("number of entries", 1)?;
        let mut entries = HashMap::new();
        for i in 0..n_entries {
            let name = file.text(&format!("name of entry {i}"))?;
            let n_calls = file.i32("calls")?;
            let n = file.count(&format!("number of values of `{name}`"), 1)?;
            let sums = file.take(n.saturating_mul(4), &format!("values of `{name}`"))?;
            let sums = sums.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            let values = sums.map(|sum| if n_calls > 0 { sum / n_calls as f32 } else { sum }).collect();
            entries.insert(name, values);
        }
        let (n_chunks, dataset) = file.origin().unwrap_or_default();
        Ok(Imatrix { path: path.to_owned(), entries, dataset, n_chunks })
    }

    /// What the file was made of, which may be left out.
    fn origin(&mut self) -> Option<(u32, Option<String>)> {
        let n_chunks = self.i32("chunks").ok()?.try_into().unwrap_or(0);
        Some((n_chunks, self.text("dataset").ok().filter(|name| !name.is_empty())))
    }

    fn text(&mut self, field: &str) -> Result<String, Error> {
        let n = self.count(&format!("length of {field}"), 0)?;
        let bytes = self.take(n, field)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| invalid(self.path, field, "valid UTF-8", "other bytes"))
    }

    fn count(&mut self, field: &str, least: usize) -> Result<usize, Error> {
        let n = self.i32(field)?;
        let count = usize::try_from(n).ok().filter(|&n| n >= least && n <= self.rest.len());
        let expected = || format!("{least} to {}, as many as the file can hold", self.rest.len());
        count.ok_or_else(|| invalid(self.path, field, expected(), n))
    }

    fn i32(&mut self, field: &str) -> Result<i32, Error> {
        let bytes = self.take(4, field)?;
        Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn take(&mut self, n: usize, field: &str) -> Result<&'a [u8], Error> {
        let short = || invalid(self.path, field, format!("{n} bytes"), format!("{} before the end", self.rest.len()));
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::gguf::{Metadata, Value, Writer};

    /// Two entries: one of three columns, one of two experts of two.
    fn write_gguf(path: &Path, sums: &[f32], keys: bool) {
        let mut metadata = Metadata::new();
        metadata.insert("general.type", "imatrix");
        if keys {
            metadata.insert("imatrix.datasets", Value::from(vec!["text.txt".to_owned(), "more.txt".into()]));
            metadata.insert("imatrix.chunk_count", 7u32);
            metadata.insert("imatrix.chunk_size", 512u32);
        }
        let mut writer = Writer::new(metadata);
        let mut data = Vec::new();
        for (name, dims, values) in [
            ("a.weight.in_sum2", &[3, 1][..], sums),
            ("a.weight.counts", &[1, 1], &[2.0]),
            ("b.weight.in_sum2", &[2, 2], &[4.0, 8.0, 5.0, 6.0]),
            ("b.weight.counts", &[1, 2], &[4.0, 0.0]),
        ] {
            writer.tensor(name, dims, DType::F32).unwrap();
            data.push(values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        let mut data = data.into_iter();
        writer.write::<gguf::Error>(path, |_| Ok(data.next().unwrap().into())).unwrap();
    }

    fn legacy(with_origin: bool) -> Vec<u8> {
        let mut bytes = 1i32.to_le_bytes().to_vec();
        bytes.extend(8i32.to_le_bytes());
        bytes.extend(b"a.weight");
        [4i32, 2].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        [2.0f32, 6.0].iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        if with_origin {
            [9i32, 4].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            bytes.extend(b"wiki");
        }
        bytes
    }

    #[test]
    fn both_formats_give_mean_squares() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write_gguf(&path, &[2.0, 0.0, 1.0], true);
        let imatrix = Imatrix::open(&path).unwrap();
        assert_eq!(imatrix.get("a.weight"), Some(&[1.0, 0.0, 0.5][..]));
        assert_eq!(imatrix.get("b.weight"), Some(&[1.0, 2.0, 1.0, 1.0][..]));
        assert_eq!((imatrix.dataset(), imatrix.n_chunks(), imatrix.len()), (Some("text.txt"), 7, 2));
        let path = folder.path().join("m.dat");
        for (with_origin, origin) in [(true, (Some("wiki"), 9)), (false, (None, 0))] {
            fs::write(&path, legacy(with_origin)).unwrap();
            let imatrix = Imatrix::open(&path).unwrap();
            assert_eq!(imatrix.get("a.weight"), Some(&[0.5, 1.5][..]));
            assert_eq!((imatrix.dataset(), imatrix.n_chunks()), origin);
        }
    }

    #[test]
    fn entries_are_chosen_by_parts_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write_gguf(&path, &[1.0; 3], true);
        let mut imatrix = Imatrix::open(&path).unwrap();
        imatrix.exclude(&["b.w".into()]);
        assert_eq!((imatrix.len(), imatrix.get("b.weight")), (1, None));
        imatrix.include(&["b".into()]);
        assert!(imatrix.is_empty());
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let message = |path: &Path| Imatrix::open(path).unwrap_err().to_string();
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            write_gguf(&path, &[bad, 1.0, 1.0], true);
            assert!(message(&path).starts_with("importance of `a.weight`: expected finite numbers from 0 up"), "{bad}");
        }
        write_gguf(&path, &[1.0; 3], false);
        assert!(message(&path).starts_with("`imatrix.datasets`"), "{}", message(&path));
        let whole = legacy(false);
        for n in 0..whole.len() {
            fs::write(&path, &whole[..n]).unwrap();
            let message = message(&path);
            assert!(message.contains(": expected ") && message.contains(" in `"), "{n}: {message}");
        }
        assert!(message(&folder.path().join("none")).starts_with("cannot open `"));
    }
}
