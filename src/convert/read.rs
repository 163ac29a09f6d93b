//! Owns the way in: the bytes of a checkpoint's files but for the weights. Refuses what is no regular file, for a pipe waits
//! for ever and a device has no end, and files larger than their kind ever is.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::Error;
use crate::files;

/// Kinds of files by the most that one of them may hold. The largest known of each kind has a tenth of it or less.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `config.json` and other settings, chat templates, model cards.
    Settings,
    /// Vocabularies, merges, and indices of weights.
    Lists,
}

impl Kind {
    fn max_bytes(self) -> u64 {
        match self {
            Kind::Settings => 8 << 20,
            Kind::Lists => 256 << 20,
        }
    }

    /// The most values that a JSON file of this kind may hold: in memory each takes many times the two bytes that it may take
    /// in the file.
    pub(super) fn max_values(self) -> usize {
        match self {
            Kind::Settings => 1 << 18,
            Kind::Lists => 1 << 22,
        }
    }
}

/// The bytes of a file.
pub(super) fn bytes(path: &Path, kind: Kind) -> Result<Vec<u8>, Error> {
    let file = open(path)?;
    let most = kind.max_bytes();
    let mut bytes = Vec::new();
    // What the system says of a file's size may be wrong, as it is below `/proc`.
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if bytes.len() as u64 > most {
        return Err(Error::invalid(path, "size", format_args!("at most {most} bytes"), "more"));
    }
    Ok(bytes)
}

/// The bytes of a file; `None` where there is none.
pub(super) fn bytes_if_any(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>, Error> {
    match bytes(path, kind) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Opens a file. What it is, is asked before: opening a pipe would wait for someone who writes.
pub(super) fn open(path: &Path) -> Result<fs::File, Error> {
    let facts = fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !facts.is_file() {
        return Err(Error::invalid(path, "kind of file", "a regular file", files::kind(&facts)));
    }
    fs::File::open(path).map_err(|e| Error::io(path, "open", e))
}
