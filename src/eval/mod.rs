//! Owns tasks with one short answer: their rows and prompts, what full depth and an early stop make of them, and how
//! long both take; and what layers are worth ([`layers`]).

mod agreement;
mod collect;
mod depth;
mod eye;
pub mod layers;
mod measure;
mod questions;
mod report;
mod rows;
mod task;
mod ways;

pub use agreement::agreement;
pub use collect::{Excerpt, Sight, collect, collect_own, excerpts, fit_lenses, look_cost, own_answer, own_prompts};
pub use depth::{Depths, confidence};
pub use measure::{Beside, Measured, Outcome, evaluate, fixed_plan};
pub use questions::Questions;
pub use report::html;
pub use task::{Answers, Item, Task};
pub use ways::{Way, WayDone, beside};

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
