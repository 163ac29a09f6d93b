//! Owns which files of a folder hold the tensors, and the directory over all of them. Refuses missing files, names
//! that lead out of the folder, and tensors that an index and the files do not agree on.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use super::element::Element;
use super::json::{Document, shown};
use super::read::{self, Kind};
use super::{Error, safetensors, torch};

/// A file that holds tensors.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: fs::File,
    bytes: u64,
}

/// A tensor of a checkpoint: contiguous, the last dimension innermost.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    pub(super) shard: Arc<Shard>,
    /// Where the first element lies in the file.
    pub(super) offset: u64,
}

/// The tensors of a checkpoint by name, in the order of the files.
pub(super) type Tensors = IndexMap<String, Source>;

/// No checkpoint of an architecture that is converted has a hundredth of it.
pub(super) const MAX_TENSORS: usize = 1 << 16;

impl Shard {
    pub(super) fn open(path: PathBuf) -> Result<Arc<Shard>, Error> {
        let file = read::open(&path)?;
        let facts = file.metadata().map_err(|e| Error::io(&path, "open", e))?;
        Ok(Arc::new(Shard { path, file, bytes: facts.len() }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn file(&self) -> &fs::File {
        &self.file
    }

    /// Reads as many bytes as fit, from a place in the file on.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        read_exact_at(&self.file, bytes, offset).map_err(|e| Error::io(&self.path, "read", e))
    }
}

impl Source {
    /// Elements of a row: the last dimension.
    pub(super) fn row(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    pub(super) fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// Without the first rows.
    pub(super) fn without_rows(mut self, n: usize) -> Source {
        self.offset += (n * self.row() * self.element.bytes()) as u64;
        self.shape[0] -= n;
        self
    }
}

/// The size in bytes of a tensor; `None` where it does not fit.
pub(super) fn size(shape: &[usize], element: Element) -> Option<u64> {
    shape.iter().try_fold(element.bytes() as u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= i64::MAX as u64)
}

/// Finds the tensors of a folder: safetensors where there are any, else PyTorch's pickles.
pub(super) fn open(folder: &Path) -> Result<Tensors, Error> {
    let safetensors = parts(folder, "model", ".safetensors")?;
    if !safetensors.is_empty() || folder.join(SAFETENSORS_INDEX).exists() {
        return collect(folder, SAFETENSORS_INDEX, safetensors, safetensors::open);
    }
    let pickles = parts(folder, "pytorch_model", ".bin")?;
    if !pickles.is_empty() || folder.join(TORCH_INDEX).exists() {
        return collect(folder, TORCH_INDEX, pickles, torch::open);
    }
    let expected = "`model*.safetensors` or `pytorch_model*.bin`";
    Err(Error::invalid(folder, "weights", expected, "neither"))
}

const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// The names of the files that begin and end so, in order.
fn parts(folder: &Path, start: &str, end: &str) -> Result<BTreeSet<String>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "open", e))?;
    let names = entries.map(|entry| Ok(entry.map_err(|e| Error::io(folder, "read", e))?.file_name()));
    let names: Vec<_> = names.collect::<Result<_, Error>>()?;
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect())
}

fn collect(
    folder: &Path,
    index: &str,
    found: BTreeSet<String>,
    open: impl Fn(Arc<Shard>) -> Result<Vec<(String, Source)>, Error>,
) -> Result<Tensors, Error> {
    let index = Document::read(folder.join(index), Kind::Lists)?;
    let listed = index.as_ref().map(weight_map).transpose()?;
    let files = listed.as_ref().map_or(found, |map| map.values().cloned().collect());
    let mut tensors = Tensors::new();
    for name in files {
        let path = folder.join(&name);
        for (tensor, source) in open(Shard::open(path.clone())?)? {
            let wanted = listed.as_ref().map(|map| map.get(&tensor));
            if wanted.is_some_and(|file| file != Some(&name)) {
                let expected = format_args!("the tensors that the index lists for `{name}`");
                return Err(Error::invalid(&path, "tensors", expected, format_args!("`{tensor}` besides")));
            }
            if tensors.len() == MAX_TENSORS {
                return Err(Error::invalid(&path, "tensors", format_args!("at most {MAX_TENSORS}"), "more"));
            }
            if tensors.insert(tensor.clone(), source).is_some() {
                return Err(Error::invalid(&path, format_args!("tensor `{tensor}`"), "it once", "it twice"));
            }
        }
    }
    match listed.iter().flatten().find(|(name, _)| !tensors.contains_key(*name)) {
        Some((name, file)) => {
            let field = format!("tensor `{name}`");
            let expected = "it, for the index lists it here";
            Err(Error::invalid(&folder.join(file), field, expected, "no such tensor"))
        }
        None => Ok(tensors),
    }
}

/// The file that an index names for each tensor. Only names of files in the folder itself.
fn weight_map(index: &Document) -> Result<IndexMap<String, String>, Error> {
    let root = index.root();
    let Some(map) = root.object("weight_map")? else {
        return Err(root.error("weight_map", "an object", "no such key"));
    };
    let file_of = |(tensor, file): (&String, &serde_json::Value)| match file.as_str() {
        Some(name) if is_plain_name(name) => Ok((tensor.clone(), name.to_owned())),
        _ => Err(map.error(tensor, "the name of a file beside the index", shown(file))),
    };
    map.iter().map(file_of).collect()
}

/// Whether a name stays in the folder: no separators of any system, no way up.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(unix)]
fn read_exact_at(file: &fs::File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &fs::File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, offset) = (&mut bytes[n..], offset + n as u64),
        }
    }
    Ok(())
}
