//! Owns tasks with one short answer: their rows and prompts, what full depth and an early stop make of them, and how
//! long both take.

mod measure;
mod report;
mod task;

pub use measure::{Measured, Outcome, Questions, collect, evaluate};
pub use report::html;
pub use task::{Item, Task};

/// What is wrong with a task, or with running it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the task cannot be used.
    #[error("{place}: {why}")]
    Task {
        /// File, and line where there is one.
        place: String,
        /// What was expected and found.
        why: String,
    },
    /// The model cannot run a row.
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    /// The model lacks what is read.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}
