//! Owns what runs: the steps of a way through the layers, and how they are written as text. Knows no model, only how many
//! layers there are; refuses plans that run nothing.
//!
//! ```
//! use curtail::plan::{Half, Layers, full};
//!
//! let steps = Layers::parse("~7,5<>6,~20:attn")?.steps(&full(30))?;
//! assert_eq!(steps.len(), 29);
//! assert_eq!((steps[5].il, steps[6].il, steps[7].il), (6, 5, 8));
//! assert!(!steps[19].has(Half::Attention) && steps[19].has(Half::FeedForward));
//! let wrong = Layers::parse("0-20,2l:mlp").unwrap_err();
//! assert_eq!(wrong.to_string(), "expected `,` or the end, found `l`\n  0-20,2l:mlp\n        ^");
//! # Ok::<(), curtail::plan::Error>(())
//! ```

mod depth;
mod parse;
mod print;
mod step;
mod written;

pub use depth::{Depth, LayerCount, depth_after, layers_before, layers_of};
pub use print::text;
pub use step::{Half, LayerStep, Runs, full, number};
pub use written::Layers;

/// A plan that cannot be: what is wrong, and the place in its line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}expected {expected}, found {found}\n  {line}\n  {:>width$}", self.place(), "^", width = .column + 1)]
pub struct Error {
    line: String,
    /// From 1; 0 where the plan is one line.
    line_no: usize,
    column: usize,
    expected: String,
    found: String,
}

/// More steps than this are a slip of the finger.
const MOST_STEPS: usize = 4096;

/// Items that a plan may have: each may name a half of a step, and is looked for among all steps.
const MOST_ITEMS: usize = 2 * MOST_STEPS;

impl Error {
    fn place(&self) -> String {
        if self.line_no > 0 { format!("line {}: ", self.line_no) } else { String::new() }
    }
}
