//! How an engine runs, and why it cannot.

use std::io;

use super::{Probe, TokenId};
use crate::dtype::DType;
use crate::ggml::{self, Device};
use crate::model::{Config, LayerStep, MAX_POSITIONS, Model};
use crate::plan::{Depth, Half, Runs, number};

/// Why an engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No room for another token.
    #[error("the context of {n_ctx} tokens is full")]
    ContextFull {
        /// The context of a sequence.
        n_ctx: usize,
    },
    /// A token that the model does not have.
    #[error("token {token}: expected an id below {n_vocab}")]
    Token {
        /// The id.
        token: TokenId,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A parameter that the model cannot take.
    #[error("`{name}`: expected {expected}, found {found}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What is possible.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// A context whose cache cannot be.
    #[error("a context of {n_ctx} tokens: expected {expected}\nhint: -c sets another")]
    Context {
        /// The context asked for, by the caller or by the model's metadata.
        n_ctx: usize,
        /// What is possible.
        expected: String,
    },
    /// Keys and values for which there is no memory.
    #[error("keys and values of {n_ctx} tokens: {source}")]
    CacheMemory {
        /// The context.
        n_ctx: usize,
        /// What there was no memory for.
        source: ggml::Error,
    },
    /// Logits that no token can be chosen from.
    #[error("the logits {place} are NaN or infinite: {cause}")]
    NotFinite {
        /// Where in the text.
        place: String,
        /// The tensor or the layer that they come from.
        cause: String,
    },
    /// As many sequences as there is room for.
    #[error("no room for another sequence: expected at most {n_seq} at once")]
    NoSequence {
        /// Sequences that the engine has room for.
        n_seq: usize,
    },
    /// A shared prefix that a device has forgotten.
    #[error("the shared prefix is lost: a device was lost that held its keys and values")]
    PrefixLost,
    /// Nothing has been evaluated yet.
    #[error("there is no token to continue from")]
    Empty,
    /// A saved state that does not belong to this engine.
    #[error("saved state: expected {expected}, found {found}")]
    State {
        /// What this engine needs.
        expected: String,
        /// What the state says.
        found: String,
    },
    /// Reading or writing a state failed.
    #[error("saved state: {0}")]
    Io(#[from] io::Error),
    /// Memory or device.
    #[error(transparent)]
    Ggml(#[from] ggml::Error),
}

impl Error {
    /// What belongs to one engine was given to another.
    pub(super) fn of_another_engine(name: &'static str) -> Error {
        let expected = "sequences of the engine that runs it".to_owned();
        Error::Parameter { name, expected, found: "one of another".to_owned() }
    }
}

/// How an engine runs.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineParams {
    /// Tokens of context of each sequence; 0 for as many as the model was trained with. A model with learned positions takes no more.
    pub n_ctx: usize,
    /// Sequences that there is room for at once.
    pub n_seq: usize,
    /// Rows that run at once while a prompt is read.
    pub n_batch: usize,
    /// Element type of cached keys.
    pub type_k: DType,
    /// Element type of cached values.
    pub type_v: DType,
    /// Whether attention is one fused operation; `None` for what suits each device ([`EngineParams::fuses_attention_on`]).
    pub flash_attn: Option<bool>,
    /// Where the plan is cut into ranges that run as graphs of their own; empty for one range.
    pub cuts: Vec<Depth>,
    /// What runs, in order; empty for everything that the model has.
    pub plan: Vec<LayerStep>,
    /// Whether steps compute only the logits that the sampler chooses among, where that is faster: a low-bit copy of the
    /// output head tells which ([`crate::ggml::Ops::shortlist`]).
    pub shortlist: bool,
    /// What is read of hidden states on devices other than the CPU ([`super::Sequence::probe_at`]).
    pub probes: Vec<Probe>,
    /// What runs to draft a token ([`super::Sequence::run_draft_plan`]), steps of the plan with their turns; empty for nothing.
    pub draft_plan: Vec<LayerStep>,
}

impl Default for EngineParams {
    fn default() -> EngineParams {
        EngineParams {
            n_ctx: 0,
            n_seq: 1,
            n_batch: 512,
            type_k: DType::F16,
            type_v: DType::F16,
            flash_attn: None,
            cuts: Vec::new(),
            plan: Vec::new(),
            shortlist: true,
            probes: Vec::new(),
            draft_plan: Vec::new(),
        }
    }
}

impl EngineParams {
    /// The same with another plan.
    pub fn with_plan(&self, plan: Vec<LayerStep>) -> EngineParams {
        EngineParams { plan, ..self.clone() }
    }

    /// Tokens of context for a model, once it is certain that their cache has a size that a machine could hold. Refuses others
    /// before anything is loaded.
    pub fn context_for(&self, config: &Config) -> Result<usize, Error> {
        let n_ctx = if self.n_ctx == 0 { config.n_ctx_train } else { self.n_ctx };
        if let Some(most) = config.n_ctx_max().filter(|&most| n_ctx > most) {
            let expected = format!("at most {most} tokens: this model has learned no positions beyond");
            return Err(Error::Parameter { name: "ctx-size", expected, found: n_ctx.to_string() });
        }
        if n_ctx > MAX_POSITIONS {
            return Err(Error::Context { n_ctx, expected: format!("at most {MAX_POSITIONS}") });
        }
        // In 128 bits: the numbers are a file's and a user's, and their product may be any.
        let row = |n, dtype: DType| dtype.row_bytes(n).unwrap_or(0) as u128;
        let rows = row(config.n_embd_k(), self.type_k) + row(config.n_embd_v(), self.type_v);
        let bytes = rows * config.n_layer as u128 * n_ctx as u128 * self.n_seq.max(1) as u128;
        if bytes > isize::MAX as u128 {
            let expected = format!("keys and values that fit in memory (these take {bytes} bytes)");
            return Err(Error::Context { n_ctx, expected });
        }
        Ok(n_ctx)
    }

    pub(super) fn may_do_without_flash(&self) -> bool {
        self.flash_attn.is_none() && !self.type_v.is_quantized()
    }

    /// Whether attention is one fused operation on a device. Quantized values need it. On the CPU ggml's accumulates values in
    /// f16: it saves memory at long contexts and costs accuracy; on GPUs it is the fastest.
    pub fn fuses_attention_on(&self, device: &Device) -> bool {
        self.flash_attn.unwrap_or(self.type_v.is_quantized() || device.is_gpu())
    }
}

impl EngineParams {
    /// The same with what is left open filled in, once it is certain that the model can run so.
    pub(super) fn checked_for(&self, model: &Model) -> Result<EngineParams, Error> {
        let mut params = self.clone();
        let config = model.config();
        params.n_ctx = params.context_for(config)?;
        check_cache_type("cache-type-k", params.type_k, config.head_dim_k)?;
        check_cache_type("cache-type-v", params.type_v, config.head_dim_v)?;
        // A column of values is no row of blocks: without the fused kernel they lie by column.
        if params.type_v.is_quantized() && params.flash_attn == Some(false) {
            let expected = "f32, f16 or bf16 without flash attention".to_owned();
            return Err(Error::Parameter { name: "cache-type-v", expected, found: params.type_v.name().to_owned() });
        }
        // What is too small or too large has an obvious meaning.
        params.n_seq = params.n_seq.max(1);
        params.n_batch = params.n_batch.clamp(1, params.n_ctx);
        if params.plan.is_empty() {
            params.plan = model.plan().to_vec();
        }
        // Turns decide which cache rows a step has: nobody else may have counted them otherwise.
        number(&mut params.plan);
        check_plan(&params.plan, model)?;
        check_plan(&params.draft_plan, model)?;
        let shared =
            |step: &&LayerStep| !params.plan.iter().any(|own| own.shares_cache_with(step) && own.has(Half::Attention));
        if let Some(step) = params.draft_plan.iter().filter(|step| step.has(Half::Attention)).find(shared) {
            let expected = "attention of steps that the plan runs too".to_owned();
            return Err(Error::Parameter { name: "draft_plan", expected, found: step.il.to_string() });
        }
        // Cuts are borders of ranges: in rising order, each once.
        params.cuts.sort_unstable();
        params.cuts.dedup();
        check_cuts(&params.cuts, params.plan.len())?;
        check_probes(&params.probes, config.n_embd, params.plan.len())?;
        Ok(params)
    }
}

/// Refuses steps that the model does not have.
pub(super) fn check_plan(plan: &[LayerStep], model: &Model) -> Result<(), Error> {
    let has = |step: &LayerStep| {
        let own = model.plan().get(step.il);
        own.is_some_and(|own| step.halves().all(|half| own.has(half)))
    };
    // A plan that writes keys and values alone would give its state back unchanged: that is no step of one.
    match plan.iter().find(|step| step.runs == Runs::KvOnly || !has(step)) {
        None => Ok(()),
        Some(step) => {
            let expected = format!("layers below {} with the halves that the model has", model.plan().len());
            Err(Error::Parameter { name: "plan", expected, found: format!("{step:?}") })
        }
    }
}

pub(super) fn check_probes(probes: &[Probe], n_embd: usize, n_steps: usize) -> Result<(), Error> {
    for probe in probes {
        check_cuts(&[probe.depth], n_steps)?;
        let (expected, found) = (n_embd * probe.bias.len(), probe.weights.len());
        // A matrix of another width would read beyond the state.
        if expected != found || found == 0 {
            let expected = format!("{n_embd} weights for each of at least one number");
            return Err(Error::Parameter { name: "probes", expected, found: found.to_string() });
        }
    }
    Ok(())
}

pub(super) fn check_cuts(cuts: &[Depth], n_steps: usize) -> Result<(), Error> {
    if cuts.iter().all(|cut| (1..n_steps).contains(&cut.0)) && cuts.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let expected = format!("layers between 1 and {}, rising", n_steps - 1);
    let found: Vec<usize> = cuts.iter().map(|cut| cut.0).collect();
    Err(Error::Parameter { name: "cuts", expected, found: format!("{found:?}") })
}

fn check_cache_type(name: &'static str, dtype: DType, head: usize) -> Result<(), Error> {
    const TYPES: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0];
    if !TYPES.contains(&dtype) || dtype.row_bytes(head).is_none() {
        let expected = format!("f32, f16, bf16, or (heads of a multiple of 32; this model's have {head}) q8_0, q4_0");
        return Err(Error::Parameter { name, expected, found: dtype.name().to_owned() });
    }
    Ok(())
}
