//! Owns what is measured of a model: the answers to a task's questions, at full depth and with an early stop; perplexity over
//! a text, the divergence from another model or depth, and what enters its multiplications; what layers are worth ([`layers`]).

#[cfg(feature = "tasks")]
mod agreement;
mod base_file;
#[cfg(feature = "tasks")]
mod collect;
#[cfg(feature = "tasks")]
mod depth;
mod divergence;
mod imatrix;
pub mod layers;
#[cfg(feature = "tasks")]
mod measure;
mod perplexity;
#[cfg(feature = "tasks")]
mod report;
#[cfg(feature = "tasks")]
mod run_modes;
mod score;
mod score_mode;
#[cfg(feature = "tasks")]
mod text_report;

#[cfg(feature = "tasks")]
pub use agreement::agreement;
pub use base_file::{BaseFile, Rows, packed, write_header};
#[cfg(feature = "tasks")]
pub use collect::{Excerpt, Sight, collect, collect_own, excerpts, fit_lenses, look_cost, own_answer, own_prompts};
#[cfg(feature = "tasks")]
pub use depth::{Depths, confidence};
pub use divergence::{Base, Compared, Divergence, Quantile, compare, log_softmax};
pub use imatrix::{Entry, Imatrix};
#[cfg(feature = "tasks")]
pub use measure::{CompareRuns, Measured, Outcome, evaluate, fixed_plan};
pub use perplexity::{Chunks, Estimate, Moments, surprise};
#[cfg(feature = "tasks")]
pub use report::html;
#[cfg(feature = "tasks")]
pub use run_modes::{RunMode, WayDone, beside};
pub use score::{Against, Place, score};
pub use score_mode::Reading;
#[cfg(feature = "tasks")]
pub use text_report::Page;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a text or a file, or with running it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is to be fitted has no rows.
    #[error("{what}: there is nothing to fit it to")]
    Nothing {
        /// The lens, say.
        what: &'static str,
    },
    /// A task that cannot be asked.
    #[error(transparent)]
    Classify(#[from] crate::classify::Error),
    /// A text that makes no chunks.
    #[error("text: expected {expected}, found {found}")]
    Chunks {
        /// What makes chunks.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A file of distributions or sums that cannot be used.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    File {
        /// The file.
        path: PathBuf,
        /// Part of it.
        field: String,
        /// What can be used.
        expected: String,
        /// What it says.
        found: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `open`, `read`, `write`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file is no valid GGUF file.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::Error),
    /// The model cannot run a row.
    #[error(transparent)]
    Sequence(#[from] crate::engine::Error),
    /// The model lacks what is read.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}

impl Error {
    fn invalid(path: &Path, field: impl Display, expected: impl Display, found: impl Display) -> Error {
        let [field, expected, found] = [field.to_string(), expected.to_string(), found.to_string()];
        Error::File { path: path.to_owned(), field, expected, found }
    }

    fn io(path: &Path, action: &'static str, source: io::Error) -> Error {
        Error::Io { path: path.to_owned(), action, source }
    }
}
