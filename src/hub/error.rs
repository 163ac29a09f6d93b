//! Owns what can go wrong between a name and a file, told so that the user knows what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Offer;

/// Why a model cannot be found, downloaded or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A text does not name a model of a hub.
    #[error("`{text}`: expected ORG/REPO, ORG/REPO:QUANT or ORG/REPO/FILE.gguf, found {found}")]
    Spec {
        /// The text.
        text: String,
        /// What is wrong with it.
        found: &'static str,
    },
    /// An environment variable says what it cannot.
    #[error("{name}: expected {expected}, found `{found}`")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// No file is what was asked for.
    #[error("`{repo}`: no {what}{}", listed(offers))]
    NoneFits {
        /// The repository.
        repo: String,
        /// What was looked for.
        what: String,
        /// What is there.
        offers: Vec<Offer>,
    },
    /// More than one file is what was asked for.
    #[error("`{repo}`: {} models fit `{spec}`{}", offers.len(), listed(offers))]
    SeveralFit {
        /// The repository.
        repo: String,
        /// What was asked for.
        spec: String,
        /// What fits.
        offers: Vec<Offer>,
    },
    /// A set of files lacks some.
    #[error("`{repo}`: `{name}` is one of {expected} parts, found {found}")]
    Parts {
        /// The repository.
        repo: String,
        /// The first part that is there.
        name: String,
        /// How many parts there are by their names.
        expected: u32,
        /// How many are there.
        found: usize,
    },
    /// The hub wants to know who asks, or does not let them.
    #[error("`{repo}`: the hub refuses access ({status}{detail})\nhint: {hint}")]
    Access {
        /// The repository.
        repo: String,
        /// The status code.
        status: u16,
        /// What the hub says about it.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// The hub does not have it.
    #[error("`{repo}`: the hub has no {what} ({status}{detail})")]
    Missing {
        /// The repository.
        repo: String,
        /// What is missing.
        what: String,
        /// The status code.
        status: u16,
        /// What the hub says about it.
        detail: String,
    },
    /// Another answer than the protocol's.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// The address.
        url: String,
        /// What the protocol wants.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// No answer.
    #[error("cannot reach {url}: {why}")]
    Network {
        /// The address.
        url: String,
        /// Why.
        why: String,
    },
    /// The download ended too often before the file did; what there is stays.
    #[error("`{name}`: {why}; {} of {} are kept\nhint: the same command goes on from there", Amount(*have), Amount(*size))]
    Cut {
        /// The file.
        name: String,
        /// What ended it last.
        why: String,
        /// Bytes that are kept.
        have: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// The bytes are not the file's.
    #[error("`{name}`: expected the {algorithm} {expected}, found {found}; the download was deleted\nhint: try again")]
    Checksum {
        /// The file.
        name: String,
        /// `SHA-256`, or `git SHA-1`.
        algorithm: &'static str,
        /// By the hub.
        expected: String,
        /// Of what was downloaded.
        found: String,
    },
    /// The disk is too small.
    #[error("not enough space in `{}`: {} are needed, {} are free", folder.display(), Amount(*needed), Amount(*free))]
    Space {
        /// The folder.
        folder: PathBuf,
        /// Bytes to be downloaded.
        needed: u64,
        /// Bytes that may be written.
        free: u64,
    },
    /// A request would be needed, and none may be made.
    #[error("`{what}` is not in the cache, and HF_HUB_OFFLINE is set")]
    Offline {
        /// What was asked for.
        what: String,
    },
    /// Something would be removed that is not in the cache.
    #[error("`{}` leads out of the cache `{}`: not removed", path.display(), cache.display())]
    Outside {
        /// The file or folder.
        path: PathBuf,
        /// The cache.
        cache: PathBuf,
    },
    /// The caller wants no more.
    #[error("interrupted")]
    Interrupted,
}

/// Bytes in the largest unit that they fill.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let (mut amount, mut unit) = (self.0 as f64 / 1024.0, 0);
        while amount >= 1024.0 && unit + 1 < UNITS.len() {
            (amount, unit) = (amount / 1024.0, unit + 1);
        }
        write!(f, "{amount:.2} {}", UNITS[unit])
    }
}

/// The files that are there, a line each.
fn listed(offers: &[Offer]) -> String {
    let width = offers.iter().map(|offer| offer.name.chars().count()).max().unwrap_or(0);
    let line = |offer: &Offer| {
        let bytes = offer.bytes.map_or_else(String::new, |bytes| Amount(bytes).to_string());
        format!("\n  {:width$}  {bytes:>10}", offer.name)
    };
    let lines: String = offers.iter().map(line).collect();
    if lines.is_empty() { String::new() } else { format!("; there are:{lines}\nhint: ORG/REPO/FILE names one") }
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Error::Network { .. })
    }
}
