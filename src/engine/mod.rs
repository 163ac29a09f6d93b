//! Runs a model for many texts at once. An [`Engine`] owns what they share: the weights, the memory of keys and values, the
//! hidden states that wait, the graphs. A [`Sequence`] owns what is one text's: its tokens, how far each of them has come, its
//! drafts. [`Engine::forward`] takes rows of many sequences through the layers together, and lets each leave where it may.
//! Refuses to know text.
//!
//! Every token is a row on its way through the layers. A row that has been through some of them only is *pending*: its hidden
//! state waits, and the next run that goes deeper takes it along, so that its cache rows become exactly what full depth would
//! have written. Depth never rises along a sequence: a row sees all rows before it.
//!
//! Where our kernels run, a row has the same bits alone and beside any others.

mod batch;
mod cells;
mod draft;
mod early_exit;
mod executor;
mod fan_out;
mod features;
mod graph;
mod hidden_states;
mod inputs;
mod params;
mod prefix;
mod probe;
mod question;
mod row;
mod sequence;
mod snapshot;
mod trace;

pub use batch::Batch;
pub use early_exit::{Answer, Exits};
pub use fan_out::{AtCut, Branch, Cut, View};
pub use features::FeatureExtractor;
pub use inputs::{InputSums, Inputs};
pub use params::{EngineParams, Error};
pub use prefix::Prefix;
pub use probe::Probe;
pub use question::{AnswerTokens, Choice, Question};
pub use sequence::{Sequence, Step, Synced};
pub use trace::Shown;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ggml;
use crate::model::Model;
use cells::Regions;
use executor::Executor;

/// A token's place in the vocabulary.
pub type TokenId = u32;

/// What runs sequences of one model. A clone is the same engine.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use curtail::engine::{Batch, Engine, EngineParams};
/// use curtail::ggml::Device;
/// use curtail::gguf::File;
/// use curtail::model::Model;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = Arc::new(File::open("model.gguf".as_ref())?);
/// let model = Arc::new(Model::load(file, Device::cpu(2)?)?);
/// let engine = Engine::new(model, EngineParams { n_ctx: 512, n_seq: 2, ..EngineParams::default() })?;
/// let (mut one, mut other) = (engine.sequence()?, engine.sequence()?);
/// one.push(1)?;
/// other.push(2)?;
/// let mut batch = Batch::default();
/// batch.add(&mut one);
/// batch.add(&mut other);
/// engine.forward(&mut batch)?; // both at full depth, the weights read once
/// println!("{} {}", one.logits()?[0], other.logits()?[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    model: Arc<Model>,
    executor: Arc<Mutex<Executor>>,
    regions: Arc<Regions>,
}

impl Engine {
    /// Memory and graphs for sequences of a model.
    ///
    /// # Errors
    /// A parameter that the model cannot take, and memory that is not there.
    pub fn new(model: Arc<Model>, params: EngineParams) -> Result<Engine, Error> {
        let params = params.checked_for(&model)?;
        let executor = match Executor::new(model.clone(), params.clone()) {
            // Heads of a size that a GPU fuses no attention of.
            Err(Error::Ggml(ggml::Error::Unsupported { .. })) if params.may_do_without_flash() => {
                Executor::new(model.clone(), EngineParams { flash_attn: Some(false), ..params })
            }
            result => result,
        }?;
        // The cache is cut into regions once: a sequence never moves, nor do the rows that others see of it.
        let regions = Regions::new(executor.cache.n_rows(), executor.params.n_seq);
        Ok(Engine { model, executor: Arc::new(Mutex::new(executor)), regions: Arc::new(regions) })
    }

    /// An empty sequence.
    ///
    /// # Errors
    /// [`Error::NoSequence`] where as many live as the engine has room for.
    pub fn sequence(&self) -> Result<Sequence, Error> {
        let region = self.regions.take(0).ok_or_else(|| self.no_sequence())?;
        Ok(Sequence::new(self.clone(), region))
    }

    /// A sequence that begins with a prefix, whose cache rows it sees where they are.
    ///
    /// # Errors
    /// [`Error::NoSequence`] where no room behind the prefix is free; [`Error::PrefixLost`] where a device has forgotten it; a
    /// prefix of another engine.
    pub fn sequence_after(&self, prefix: &Prefix) -> Result<Sequence, Error> {
        if !prefix.region().is_of(&self.regions) {
            return Err(Error::of_another_engine("prefix"));
        }
        // Behind the prefix: a row sees only what lies before it.
        let region = self.regions.take(prefix.region().index() + 1).ok_or_else(|| self.no_sequence())?;
        let mut sequence = Sequence::new(self.clone(), region);
        sequence.follow(prefix)?;
        Ok(sequence)
    }

    fn no_sequence(&self) -> Error {
        Error::NoSequence { n_seq: self.lock().params.n_seq }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// How it runs.
    pub fn params(&self) -> EngineParams {
        self.lock().params.clone()
    }

    /// Bytes of memory that cached keys and values may take: those of steps that have attention.
    pub fn cache_bytes(&self) -> usize {
        self.lock().cache.bytes()
    }

    /// Rows times layers run so far, of everything: drafts, those that were wrong and what was owed included
    /// ([`crate::plan::layers_of`]).
    pub fn layers_executed(&self) -> f64 {
        self.lock().n_run
    }

    /// Sums up what enters every multiplication from now on.
    pub fn observe(&self) {
        self.lock().observe();
    }

    /// What entered the multiplications since [`Engine::observe`].
    pub fn inputs(&self) -> Option<Inputs> {
        self.lock().inputs.clone()
    }

    /// A panic in one run leaves nothing half-changed that a later one would read: rows that were on their way are lost.
    fn lock(&self) -> MutexGuard<'_, Executor> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
