//! Owns the importance matrix: of every weight matrix, the sums of what entered it, column by column, in llama.cpp's GGUF
//! layout. Refuses files whose sums do not fit together.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Error;
use crate::dtype::DType;
use crate::engine::Inputs;
use crate::gguf::{Array, File, Metadata, TensorInfo, Value, Writer};

const TYPE: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// The value of `general.type`.
const IMATRIX: &str = "imatrix";

/// Sums over the rows that entered a matrix; of a tensor of several matrices (experts), one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Rows, of each matrix.
    pub counts: Vec<f64>,
    /// Sums of squares, \[n_in\] of each matrix.
    pub squares: Vec<f64>,
    /// Sums, of the same length; empty where a file does not have them.
    pub sums: Vec<f64>,
}

/// Sums of all matrices of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// By the name of the weight.
    pub entries: BTreeMap<String, Entry>,
    /// The texts, by the names of their files.
    pub datasets: Vec<String>,
    /// Tokens of a chunk.
    pub chunk_size: usize,
}

impl Imatrix {
    /// What a sequence has observed. Of weights outside the layers only the output head counts, if `with_output`.
    pub fn of(inputs: &Inputs, chunk_size: usize, dataset: String, with_output: bool) -> Imatrix {
        let mut entries = BTreeMap::new();
        for (weight, sums) in inputs {
            if !weight.starts_with("blk.") && !with_output {
                continue;
            }
            let entry =
                Entry { counts: vec![sums.n_rows as f64], squares: sums.squares.clone(), sums: sums.sums.clone() };
            entries.extend(names(weight).into_iter().map(|name| (name, entry.clone())));
        }
        Imatrix { entries, datasets: vec![dataset], chunk_size }
    }

    /// Chunks that went into it, as llama.cpp counts them: by the matrix with the most rows.
    pub fn n_chunks(&self) -> usize {
        let most = self.entries.values().flat_map(|entry| &entry.counts).copied().fold(0.0, f64::max);
        most as usize / self.chunk_size.max(1)
    }

    /// Reads a file.
    pub fn open(path: &Path) -> Result<Imatrix, Error> {
        let file = File::open(path)?;
        let kind = file.metadata().str(TYPE)?;
        if kind != Some(IMATRIX) {
            let found = kind.map_or("no such key".to_owned(), |kind| format!("`{kind}`"));
            return Err(Error::invalid(path, format_args!("`{TYPE}`"), format_args!("`{IMATRIX}`"), found));
        }
        let datasets = file.metadata().strings(DATASETS)?.unwrap_or_default().to_vec();
        let chunk_size = file.metadata().u32(CHUNK_SIZE)?.unwrap_or(0) as usize;
        let suffixes = [SQUARES, COUNTS, SUMS];
        let known = |t: &TensorInfo| suffixes.iter().find_map(|s| t.name.strip_suffix(s)).map(str::to_owned);
        let names: BTreeSet<String> = file.tensors().iter().filter_map(known).collect();
        let entries = names.into_iter().map(|name| Ok((name.clone(), entry(&file, &name)?)));
        Ok(Imatrix { entries: entries.collect::<Result<_, Error>>()?, datasets, chunk_size })
    }

    /// Adds the sums of another, read from `path`: as if one run had read both texts.
    pub fn merge(&mut self, other: Imatrix, path: &Path) -> Result<(), Error> {
        for (name, theirs) in other.entries {
            let Some(own) = self.entries.get_mut(&name) else {
                self.entries.insert(name, theirs);
                continue;
            };
            for (what, own, theirs) in [
                ("columns", own.squares.len(), theirs.squares.len()),
                ("matrices", own.counts.len(), theirs.counts.len()),
            ] {
                if own != theirs {
                    return Err(Error::invalid(path, format_args!("{what} of `{name}`"), own, theirs));
                }
            }
            add(&mut own.counts, &theirs.counts);
            add(&mut own.squares, &theirs.squares);
            match theirs.sums.len() {
                0 => own.sums.clear(),
                _ if own.sums.is_empty() => {}
                _ => add(&mut own.sums, &theirs.sums),
            }
        }
        self.datasets.extend(other.datasets);
        if self.chunk_size == 0 {
            self.chunk_size = other.chunk_size;
        }
        Ok(())
    }

    /// Refuses sums that the file's f32 cannot hold.
    fn check_finite(&self, path: &Path) -> Result<(), Error> {
        for (name, entry) in &self.entries {
            let values = entry.squares.iter().chain(&entry.counts).chain(&entry.sums);
            if let Some(x) = values.copied().find(|&x| !(x as f32).is_finite()) {
                let field = format_args!("sums of what enters `{name}`");
                return Err(Error::invalid(path, field, "finite numbers that fit in f32", x));
            }
        }
        Ok(())
    }

    /// Writes the file, completely or not at all.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        self.check_finite(path)?;
        let mut metadata = Metadata::new();
        metadata.insert(TYPE, IMATRIX);
        metadata.insert(DATASETS, Value::Array(Array::String(self.datasets.clone())));
        metadata.insert(CHUNK_COUNT, self.n_chunks() as u32);
        metadata.insert(CHUNK_SIZE, self.chunk_size as u32);
        let mut writer = Writer::new(metadata);
        let mut values: Vec<&[f64]> = Vec::new();
        for (name, entry) in &self.entries {
            let n_mat = entry.counts.len();
            let shape = [entry.squares.len() / n_mat, n_mat];
            for (suffix, shape, data) in
                [(SQUARES, shape, &entry.squares), (COUNTS, [1, n_mat], &entry.counts), (SUMS, shape, &entry.sums)]
            {
                if !data.is_empty() {
                    writer.tensor(&format!("{name}{suffix}"), &shape, DType::F32)?;
                    values.push(data);
                }
            }
        }
        let mut values = values.into_iter();
        writer.write::<Error>(path, |_| {
            let values = values.next().expect("as many as were declared");
            Ok(Cow::Owned(values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()))
        })
    }
}

const SQUARES: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const SUMS: &str = ".in_sum";

/// `blk.0.attn_q+attn_k` stands for `blk.0.attn_q.weight` and `blk.0.attn_k.weight`.
fn names(weight: &str) -> Vec<String> {
    match weight.rsplit_once('.') {
        Some((prefix, parts)) if parts.contains('+') => {
            parts.split('+').map(|part| format!("{prefix}.{part}.weight")).collect()
        }
        _ => vec![weight.to_owned()],
    }
}

fn add(all: &mut [f64], new: &[f64]) {
    all.iter_mut().zip(new).for_each(|(all, new)| *all += new);
}

fn entry(file: &File, name: &str) -> Result<Entry, Error> {
    let of = |suffix: &str| floats(file, &format!("{name}{suffix}"));
    let missing = |suffix: &str| Error::invalid(file.path(), format_args!("`{name}{suffix}`"), "a tensor", "none");
    let squares = of(SQUARES)?.ok_or_else(|| missing(SQUARES))?;
    let counts = of(COUNTS)?.ok_or_else(|| missing(COUNTS))?;
    let sums = of(SUMS)?.unwrap_or_default();
    let wrong = |field, expected: String, found: usize| {
        Err(Error::invalid(file.path(), format_args!("{field} of `{name}`"), expected, found))
    };
    if counts.is_empty() || !squares.len().is_multiple_of(counts.len()) || squares.is_empty() {
        return wrong("sums of squares", format!("a multiple of the {} counts", counts.len()), squares.len());
    }
    if !sums.is_empty() && sums.len() != squares.len() {
        return wrong("sums", squares.len().to_string(), sums.len());
    }
    Ok(Entry { counts, squares, sums })
}

fn floats(file: &File, name: &str) -> Result<Option<Vec<f64>>, Error> {
    let Some(info) = file.tensor(name) else { return Ok(None) };
    if info.dtype != DType::F32 {
        return Err(Error::invalid(
            file.path(),
            format_args!("type of `{name}`"),
            DType::F32.name(),
            info.dtype.name(),
        ));
    }
    let floats = file.data(info).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let floats: Vec<f64> = floats.map(f64::from).collect();
    match floats.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Error::invalid(file.path(), format_args!("`{name}`"), "finite numbers", x)),
        None => Ok(Some(floats)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::InputSums;

    fn observed() -> Inputs {
        let sums = |n_rows, x: f64| InputSums { n_rows, sums: vec![x, -x], squares: vec![x * x, 2.0] };
        Inputs::from([
            ("blk.0.attn_q+attn_k".to_owned(), sums(8, 1.5)),
            ("blk.0.ffn_down.weight".to_owned(), sums(8, 2.0)),
            ("token_embd.weight".to_owned(), sums(8, 3.0)),
        ])
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix.gguf");
        let made = Imatrix::of(&observed(), 4, "text.txt".into(), false);
        let names: Vec<&str> = made.entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"]);
        made.save(&path).unwrap();
        assert_eq!(Imatrix::open(&path).unwrap(), made);
        assert_eq!(File::open(&path).unwrap().metadata().u32(CHUNK_COUNT).unwrap(), Some(2));
        let with_output = Imatrix::of(&observed(), 4, "text.txt".into(), true);
        assert_eq!(with_output.entries["token_embd.weight"].squares, [9.0, 2.0]);
    }

    #[test]
    fn merging_adds_up() {
        let mut both = Imatrix::of(&observed(), 4, "a".into(), false);
        both.merge(Imatrix::of(&observed(), 4, "b".into(), true), Path::new("b.gguf")).unwrap();
        assert_eq!((both.datasets.len(), both.n_chunks(), both.entries.len()), (2, 4, 4));
        let merged = &both.entries["blk.0.attn_q.weight"];
        assert_eq!(
            (&merged.counts[..], &merged.squares[..], &merged.sums[..]),
            (&[16.0][..], &[4.5, 4.0][..], &[3.0, -3.0][..])
        );
        let mut narrow = Imatrix::of(&observed(), 4, "c".into(), false);
        narrow.entries.get_mut("blk.0.attn_q.weight").unwrap().squares.pop();
        let error = both.merge(narrow, Path::new("c.gguf")).unwrap_err().to_string();
        assert_eq!(error, "c.gguf: columns of `blk.0.attn_q.weight`: expected 2, found 1");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.gguf");
        let error = |kind: &str, tensors: &[(&str, usize, f32)]| {
            let mut metadata = Metadata::new();
            metadata.insert(TYPE, kind);
            let mut writer = Writer::new(metadata);
            tensors.iter().for_each(|(name, n, _)| writer.tensor(name, &[*n], DType::F32).unwrap());
            let mut values = tensors.iter();
            let bytes = |t: &TensorInfo| values.next().unwrap().2.to_le_bytes().repeat(t.elements());
            let mut bytes = bytes;
            writer.write::<Error>(&path, |t| Ok(Cow::Owned(bytes(t)))).unwrap();
            Imatrix::open(&path).unwrap_err().to_string()
        };
        assert!(error("model", &[]).contains("`general.type`: expected `imatrix`, found `model`"));
        let lonely = error(IMATRIX, &[("a.weight.in_sum2", 2, 1.0)]);
        assert!(lonely.contains("`a.weight.counts`: expected a tensor, found none"), "{lonely}");
        let uneven = error(IMATRIX, &[("a.in_sum2", 3, 1.0), ("a.counts", 2, 1.0)]);
        assert!(uneven.contains("expected a multiple of the 2 counts, found 3"), "{uneven}");
        let endless = error(IMATRIX, &[("a.in_sum2", 2, f32::INFINITY), ("a.counts", 1, 1.0)]);
        assert!(endless.contains("expected finite numbers, found inf"), "{endless}");
    }
}
