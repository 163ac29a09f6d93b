//! Drafts from the text itself: what followed the last tokens where they stood before (prompt lookup).

use crate::engine::TokenId;

/// What followed before.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// The expected tokens.
    pub(super) tokens: Vec<TokenId>,
    /// How many of the last tokens stood there too, up to [`LONGEST`].
    pub(super) matched: usize,
}

/// More equal tokens say nothing new.
pub(super) const LONGEST: usize = 4;

/// Fewer say too little.
const SHORTEST: usize = 2;

/// At most `most` tokens that followed the latest place where the longest possible end of `tokens` stood before.
pub(super) fn continuation(tokens: &[TokenId], most: usize) -> Found {
    let n = tokens.len();
    let mut best = Found::default();
    if n <= SHORTEST || most == 0 {
        return best;
    }
    // `end` is the place behind an earlier copy of the last token.
    for end in (1..n).rev() {
        let same = (0..LONGEST.min(end)).take_while(|i| tokens[end - 1 - i] == tokens[n - 1 - i]).count();
        // From the end on: of equally long matches the latest stands, which is more often right.
        if same >= SHORTEST && same > best.matched {
            best = Found { tokens: tokens[end..n.min(end + most)].to_vec(), matched: same };
            if same == LONGEST {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_end_that_stood_before_is_continued() {
        let found = continuation(&[1, 2, 3, 9, 7, 2, 3, 5, 1, 2, 3], 2);
        assert_eq!(found, Found { tokens: vec![9, 7], matched: 3 });
        let later = continuation(&[2, 3, 9, 2, 3, 5, 2, 3], 8);
        assert_eq!(later, Found { tokens: vec![5, 2, 3], matched: 2 });
        assert_eq!(continuation(&[1, 2, 3, 4], 4), Found::default());
        assert_eq!(continuation(&[1, 1, 1, 1], 2), Found { tokens: vec![1], matched: 3 });
    }
}
