//! The checkpoints of a text's tokens, which read how sure the lens is.

use crate::engine::{Error, Exits, FeatureExtractor, Sequence};
use crate::exit::{Checkpoint, Input};
use crate::plan::Depth;

/// Takes the last token through the checkpoints. The first that is sure gives its depth and its logits.
pub(super) fn run(
    checkpoints: &[Checkpoint<Depth>],
    sequence: &mut Sequence,
) -> Result<Option<(Depth, Vec<f32>)>, Error> {
    let lenses = checkpoints.iter().filter_map(|checkpoint| Some((checkpoint.at, checkpoint.lens.as_ref()?))).collect();
    let extractor = FeatureExtractor::of_tokens(Input::Confidence, lenses, sequence.model());
    sequence.exit_early(Exits { checkpoints, extractor: &extractor })
}
