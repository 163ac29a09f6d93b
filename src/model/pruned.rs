//! Owns which layers of a file have both halves: a file that was pruned for good says which it lacks.

use super::{Error, LayerStep};
use crate::gguf::File;
use crate::plan::{Half, full};

/// The key that lists the layers without attention, and the one that lists those without a feed-forward network: i32 each,
/// rising.
pub const LACKS: [(Half, &str); 2] =
    [(Half::Attention, "curtail.lacks.attention"), (Half::FeedForward, "curtail.lacks.feed_forward")];

/// Everything that a file of `n_layer` layers has.
pub(super) fn plan(file: &File, n_layer: usize) -> Result<Vec<LayerStep>, Error> {
    let mut steps = full(n_layer);
    for (half, key) in LACKS {
        for &il in file.metadata().i32s(key)?.unwrap_or_default() {
            let step = usize::try_from(il).ok().and_then(|il| steps.get_mut(il));
            let Some((step, rest)) = step.and_then(|step| step.without(half).map(|rest| (step, rest))) else {
                let expected = format!("layers below {n_layer} that have another half");
                return Err(Error::unsupported(file, key, expected, il.to_string()));
            };
            *step = rest;
        }
    }
    Ok(steps)
}
