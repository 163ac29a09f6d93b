//! Owns the step: which layer's weights run, and what of the layer.

/// One step of a plan: which layer's weights, and what of the layer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerStep {
    /// The layer.
    pub il: usize,
    /// How many earlier steps of the plan run the same layer's attention: each of them has cache rows of its own.
    pub turn: usize,
    /// What of it runs.
    pub runs: Runs,
}

/// What of a layer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runs {
    /// Attention and feed-forward network.
    Full,
    /// One of the two.
    Half(Half),
    /// Neither: the layer's keys and values are written, from the hidden state as it is, which stays.
    KvOnly,
}

/// The two parts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// `attn`
    Attention,
    /// `mlp`
    FeedForward,
}

impl LayerStep {
    /// The whole layer `il`.
    pub fn whole(il: usize) -> LayerStep {
        LayerStep { il, turn: 0, runs: Runs::Full }
    }

    /// Only the keys and values of this step.
    pub fn kv_only(self) -> LayerStep {
        LayerStep { runs: Runs::KvOnly, ..self }
    }

    /// Only this half of the step, if it runs it.
    pub fn only(self, half: Half) -> Option<LayerStep> {
        self.has(half).then_some(LayerStep { runs: Runs::Half(half), ..self })
    }

    /// The step without a half; nothing where it runs no other.
    pub fn without(self, half: Half) -> Option<LayerStep> {
        if self.has(half) { self.only(half.other()) } else { Some(self) }
    }

    /// Whether a half runs.
    pub fn has(&self, half: Half) -> bool {
        match self.runs {
            Runs::Full => true,
            Runs::Half(own) => own == half,
            Runs::KvOnly => false,
        }
    }

    /// The halves that run, in their order.
    pub fn halves(&self) -> impl Iterator<Item = Half> + use<> {
        let step = *self;
        Half::BOTH.into_iter().filter(move |&half| step.has(half))
    }

    /// Whether two steps read and write the same cache rows: the same layer's, at the same turn.
    pub fn shares_cache_with(&self, other: &LayerStep) -> bool {
        (self.il, self.turn) == (other.il, other.turn)
    }
}

impl Half {
    /// In the order in which a layer runs them.
    pub const BOTH: [Half; 2] = [Half::Attention, Half::FeedForward];

    /// As plans write it.
    pub fn name(self) -> &'static str {
        match self {
            Half::Attention => "attn",
            Half::FeedForward => "mlp",
        }
    }

    /// The other one.
    pub fn other(self) -> Half {
        match self {
            Half::Attention => Half::FeedForward,
            Half::FeedForward => Half::Attention,
        }
    }
}

/// Every layer of a model of `n_layer`, in order: the plan where nobody asks for another.
pub fn full(n_layer: usize) -> Vec<LayerStep> {
    (0..n_layer).map(LayerStep::whole).collect()
}

/// Gives every step its turn.
pub fn number(steps: &mut [LayerStep]) {
    for i in 0..steps.len() {
        let il = steps[i].il;
        // A turn without attention writes no cache rows, and takes none from the next.
        steps[i].turn = steps[..i].iter().filter(|step| step.il == il && step.has(Half::Attention)).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_taken_out_one_by_one() {
        let whole = LayerStep::whole(3);
        let attention = whole.without(Half::FeedForward).unwrap();
        assert_eq!(
            (attention.runs, attention.without(Half::FeedForward)),
            (Runs::Half(Half::Attention), Some(attention))
        );
        assert_eq!((attention.without(Half::Attention), attention.only(Half::FeedForward)), (None, None));
        assert_eq!((whole.halves().count(), attention.halves().count(), whole.kv_only().halves().count()), (2, 1, 0));
    }
}
