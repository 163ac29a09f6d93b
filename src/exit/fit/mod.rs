//! What is fitted: read-outs, lenses, the rules that decide a stop, and of all that a policy. With the feature `tasks` alone.

mod classes;
mod crf;
mod lens;
mod rules;
mod train;

pub use lens::LensFit;
pub use rules::RuleKind;
pub use train::{Options, Row, Trained, Tried, train, train_confidence};
