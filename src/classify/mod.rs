//! Owns the answering of questions with one short answer: what a task asks, its labels as token ids, and the run that stops
//! each answer where a policy is sure ([`crate::exit`]). Measures nothing.
//!
//! A [`Task`] says how answers are told apart and which solved examples come before a question; with the feature `tasks` it is
//! read from files. [`Questions`] makes token ids of it, [`Asked`] is one question, and [`answer`] answers those of one prefix
//! side by side.

#[cfg(feature = "tasks")]
mod dataset;
mod questions;
mod run;
mod task;

pub use questions::{Asked, Questions};
pub use run::{answer, extractor, prepare};
pub use task::{Answers, Item, Task};

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
    /// The model cannot run a question.
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
    /// The model lacks what is read.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
}
