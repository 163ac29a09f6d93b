//! Owns how often another way through the model chooses what full depth chose.

use super::{Error, Excerpt};
use crate::engine::{Branch, Sequence, View};

/// The share of tokens of own answers that are the best ones by this sequence's logits too; looks at no more than
/// `n_tokens`.
pub fn agreement(sequence: &mut Sequence, excerpts: &[Excerpt], n_tokens: usize) -> Result<f64, Error> {
    let n_vocab = sequence.model().config().n_vocab;
    let (mut equal, mut n) = (0, 0);
    for (prefix, part) in excerpts {
        let [_, chosen @ ..] = &part[..] else { continue };
        let question = Branch { tokens: &part[..chosen.len()], shown: chosen.len() };
        sequence.fan_out(prefix, &[question], &[], View::Hidden, &mut |cuts| {
            for (logits, &token) in cuts[0].logits.chunks_exact(n_vocab).zip(chosen) {
                equal += usize::from(logits.iter().all(|x| *x <= logits[token as usize]));
            }
            Vec::new()
        })?;
        n += chosen.len();
        if n >= n_tokens {
            break;
        }
    }
    Ok(equal as f64 / n.max(1) as f64)
}
