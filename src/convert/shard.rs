//! Owns a file with tensors, and where each of them lies in it, whatever its format.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::element::Element;
use super::{Error, read};

/// No checkpoint of an architecture that is converted has a hundredth of it.
pub(super) const MAX_TENSORS: usize = 1 << 16;

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
