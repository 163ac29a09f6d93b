//! Owns what layers are worth: a text in windows, what changes of the plan do to its predictions (Lad, Gurnee and Tegmark,
//! arXiv 2406.19384), and the search for what can be left out.

mod compare;
mod prune;
#[cfg(feature = "tasks")]
mod report;
mod scan;
mod speed;

pub use compare::{Base, Sums};
pub use prune::{Limits, Method, Part, Point, Search, parts_of};
#[cfg(feature = "tasks")]
pub use report::{prune_page, scan_page};
pub use scan::{Change, Cosines, Done, Scan, ScanState};
pub use speed::{Costs, measure_costs, measure_speed};

use crate::engine::TokenId;

/// A piece of a text that is evaluated from its beginning, and the places in it that are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// Places whose predictions are measured, rising: those of the later half.
    pub shown: Vec<usize>,
    /// What follows each of them in the text.
    pub next: Vec<TokenId>,
}

/// The windows of a text: `length` tokens each, every one behind `before` (what a text begins with). The last may be shorter.
pub fn windows(text: &[TokenId], before: &[TokenId], length: usize) -> Vec<Window> {
    // The last token of the text has nothing after it.
    let starts = (0..text.len().saturating_sub(1)).step_by(length.max(1));
    let window = |start: usize| {
        let end = (start + length).min(text.len() - 1);
        let (n, n_before) = (end - start, before.len());
        let first = n / 2;
        Window {
            tokens: [before, &text[start..end]].concat(),
            shown: (n_before + first..n_before + n).collect(),
            next: text[start + first + 1..=end].to_vec(),
        }
    };
    starts.map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_measure_what_follows_their_later_half() {
        let text: Vec<TokenId> = (10..20).collect();
        let found = windows(&text, &[1], 4);
        assert_eq!(found.len(), 3);
        let expected = Window { tokens: vec![1, 14, 15, 16, 17], shown: vec![3, 4], next: vec![17, 18] };
        assert_eq!(found[1], expected);
        assert_eq!(found[2], Window { tokens: vec![1, 18], shown: vec![1], next: vec![19] });
        assert!(windows(&[5], &[], 4).is_empty() && windows(&[], &[], 4).is_empty());
    }
}
