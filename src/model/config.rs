//! Owns the numbers that describe a model, read from GGUF metadata. Refuses what the forward pass cannot run.

use super::Error;
use super::arch::{Arch, NormKind, Norms, Positions, Softcaps};
use super::readout::FinalNorm;
use crate::ggml::{Activation, Pairs, Rope};
use crate::gguf::{File, Metadata, Value};
use crate::kernels::Heads;

/// Positions are i32 in ggml, and some are rounded up.
pub(crate) const MAX_POSITIONS: usize = (1 << 31) - (1 << 16);

/// The shape of a model, and what its layers compute: what its architecture says, with what the file says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or empty.
    pub name: String,
    /// Layers (blocks).
    pub n_layer: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Width of the feed-forward layer.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads (grouped-query attention, arXiv 2305.13245).
    pub n_head_kv: usize,
    /// Elements of a query or key head.
    pub head_dim_k: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Entries of the vocabulary.
    pub n_vocab: usize,
    /// Context the model was trained with, in tokens.
    pub n_ctx_train: usize,
    /// Which norm.
    pub norm: NormKind,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Where the norms of a layer stand.
    pub norms: Norms,
    /// Whether there is a norm before the output head.
    pub has_output_norm: bool,
    /// How queries and keys are rotated; `None` where positions are learned.
    pub rope: Option<Rope>,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Width of the token embeddings: narrower than the hidden state in opt-350m.
    pub n_embd_word: usize,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f32>,
    /// Layers that see the last positions only.
    pub window: Option<Window>,
    /// What attention's scores are multiplied by.
    pub attention_scale: f32,
    /// Bounds on attention's scores and on logits.
    pub softcaps: Option<Softcaps>,
}

/// Layers that see a window only.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Positions that a row sees, its own included.
    pub size: usize,
    /// Layers of a pattern; the last of each sees everything.
    pub period: usize,
    /// How queries and keys are rotated in a layer with a window.
    pub rope: Rope,
}

impl Config {
    /// Reads the configuration of a model file.
    pub fn from_gguf(file: &File) -> Result<Config, Error> {
        let meta = file.metadata();
        let architecture = meta.need_str("general.architecture")?;
        let Some(arch) = Arch::of(architecture) else {
            return Err(Error::unsupported(
                file,
                "general.architecture",
                format!("one of {}", Arch::names().join(", ")),
                format!("`{architecture}`"),
            ));
        };
        Keys { file, meta, arch }.config()
    }

    /// The shapes of attention.
    pub fn heads(&self) -> Heads {
        Heads {
            n_head: self.n_head,
            n_head_kv: self.n_head_kv,
            head_dim_k: self.head_dim_k,
            head_dim_v: self.head_dim_v,
            scale: self.attention_scale,
            softcap: self.softcaps.map(|caps| caps.attention),
        }
    }

    /// Tokens of context that the model can take at most: where it has learned each position, as many as it has learned.
    pub fn n_ctx_max(&self) -> Option<usize> {
        self.rope.is_none().then_some(self.n_ctx_train)
    }

    /// Whether a layer sees a window only.
    pub fn has_window(&self, il: usize) -> bool {
        self.window.as_ref().is_some_and(|window| !(il + 1).is_multiple_of(window.period))
    }

    /// How a layer rotates queries and keys.
    pub(super) fn rope_of(&self, il: usize) -> Option<&Rope> {
        match &self.window {
            Some(window) if self.has_window(il) => Some(&window.rope),
            _ => self.rope.as_ref(),
        }
    }

    /// The norm before the output head.
    pub fn final_norm(&self) -> FinalNorm {
        match self.norm {
            _ if !self.has_output_norm => FinalNorm::None,
            NormKind::Rms => FinalNorm::Rms(self.norm_eps),
            NormKind::Layer => FinalNorm::Layer(self.norm_eps),
        }
    }

    /// Weights in the matrices of a layer.
    pub fn layer_weights(&self) -> usize {
        let n_feed_forward = if self.activation.is_gated() { 3 } else { 2 }; // gate, up, down
        self.n_embd * (2 * self.n_embd_q() + self.n_embd_k() + self.n_embd_v() + n_feed_forward * self.n_ff)
    }

    /// Weights in the matrices that make logits.
    pub fn head_weights(&self) -> usize {
        let n_projection = if self.n_embd_word == self.n_embd { 0 } else { self.n_embd * self.n_embd_word };
        n_projection + self.n_embd_word * self.n_vocab
    }

    /// Width of all query heads together.
    pub fn n_embd_q(&self) -> usize {
        self.n_head * self.head_dim_k
    }

    /// Width of all key heads together: a row of the key cache.
    pub fn n_embd_k(&self) -> usize {
        self.n_head_kv * self.head_dim_k
    }

    /// Width of all value heads together: a row of the value cache.
    pub fn n_embd_v(&self) -> usize {
        self.n_head_kv * self.head_dim_v
    }
}

/// Bounds of a number of the file, both included.
#[derive(Clone, Copy)]
struct Within {
    least: f32,
    most: f32,
}

/// The metadata keys of one architecture.
struct Keys<'f> {
    file: &'f File,
    meta: &'f Metadata,
    arch: &'static Arch,
}

impl Keys<'_> {
    fn config(&self) -> Result<Config, Error> {
        let n_embd = self.size("embedding_length")?;
        let n_layer = self.n_layer()?;
        let n_head = self.size_of_layers("attention.head_count", n_layer)?;
        if let Some(n @ 1..) = self.meta.u32(&self.key("expert_count"))? {
            return Err(self.invalid("expert_count", "0 (mixtures of experts are not supported)", n));
        }
        let n_head = n_head.ok_or_else(|| self.missing("attention.head_count"))?;
        let head_dim_k = self.head_dim("attention.key_length", n_embd, n_head)?;
        let head_dim_v = self.head_dim("attention.value_length", n_embd, n_head)?;
        let rope = match self.arch.positions {
            Positions::Rotary(pairs) => Some(self.rope(head_dim_k, pairs)?),
            Positions::Learned => None,
        };
        let n_ff = self.size_of_layers("feed_forward_length", n_layer)?;
        let config = Config {
            architecture: self.arch.name.to_owned(),
            name: self.name(),
            n_layer,
            n_embd,
            n_ff: n_ff.ok_or_else(|| self.missing("feed_forward_length"))?,
            n_head,
            n_head_kv: self.size_of_layers("attention.head_count_kv", n_layer)?.unwrap_or(n_head),
            head_dim_k,
            head_dim_v,
            n_vocab: self.n_vocab()?,
            n_ctx_train: self.n_ctx_train()?,
            norm: self.arch.norm,
            norm_eps: self.norm_eps()?,
            norms: self.norms()?,
            has_output_norm: self.has_output_norm(),
            rope,
            activation: self.activation()?,
            n_embd_word: self.n_embd_word(n_embd)?,
            embedding_scale: self.arch.scales_embeddings.then(|| (n_embd as f32).sqrt()),
            window: self.window(rope)?,
            attention_scale: match self.arch.n_layer_scaled_by_width {
                Some(n) if n == n_layer => 1.0 / (n_embd as f32 / n_head as f32).sqrt(),
                _ => 1.0 / (head_dim_k as f32).sqrt(),
            },
            softcaps: self.softcaps()?,
        };
        if !n_head.is_multiple_of(config.n_head_kv) {
            let expected = format!("a divisor of attention.head_count {n_head}");
            return Err(self.invalid("attention.head_count_kv", &expected, config.n_head_kv));
        }
        self.check_widths(&config)?;
        Ok(config)
    }

    /// For the user's eyes only: a name that is no text is no reason to refuse a model.
    fn name(&self) -> String {
        match self.meta.str("general.name") {
            Ok(name) => name.unwrap_or_default().to_owned(),
            Err(_) => {
                self.meta.remark("`general.name` is no text; it is left out");
                String::new()
            }
        }
    }

    /// Layers. Each has a tensor at least: a number that the file cannot hold must not size anything.
    fn n_layer(&self) -> Result<usize, Error> {
        let n_layer = self.size("block_count")?;
        let most = self.file.tensors().len();
        if n_layer > most {
            let expected = format!("at most {most}, the tensors of the file");
            return Err(self.invalid("block_count", &expected, n_layer));
        }
        Ok(n_layer)
    }

    /// Every width is that of a matrix: none may be larger than what the file has.
    fn check_widths(&self, config: &Config) -> Result<(), Error> {
        let most = self.file.tensors().iter().map(|t| t.elements()).max().unwrap_or(0);
        let widths = [
            ("embedding_length", config.n_embd, 1),
            ("feed_forward_length", config.n_ff, 1),
            ("attention.head_count", config.n_head, config.head_dim_k.max(config.head_dim_v)),
            ("attention.head_count_kv", config.n_head_kv, config.head_dim_k.max(config.head_dim_v)),
        ];
        for (key, n, by) in widths {
            if n.checked_mul(by).is_none_or(|product| product > most) {
                let times = if by > 1 { format!(" (times {by})") } else { String::new() };
                let expected = format!("a width that the tensors have, of at most {most} elements{times}");
                return Err(self.invalid(key, &expected, n));
            }
        }
        Ok(())
    }

    fn norm_eps(&self) -> Result<f32, Error> {
        const EPSILON: Within = Within { least: 0.0, most: 1.0 };
        if self.arch.norm == NormKind::Layer {
            return Ok(self.number("attention.layer_norm_epsilon", EPSILON)?.unwrap_or(1e-5));
        }
        let key = "attention.layer_norm_rms_epsilon";
        self.meta.need_f32(&self.key(key))?;
        self.number(key, EPSILON)?.ok_or_else(|| self.missing(key))
    }

    /// opt-350m says that its norms come behind each half of a layer.
    fn norms(&self) -> Result<Norms, Error> {
        let key = self.key("do_layer_norm_before");
        let comes_first = !self.arch.varies || self.meta.bool(&key)?.unwrap_or(true);
        Ok(if comes_first { self.arch.norms } else { Norms::Post })
    }

    /// Early fine-tuned checkpoints of OPT lack it although they norm first; others must have it.
    fn has_output_norm(&self) -> bool {
        !self.arch.varies || self.file.tensor("output_norm.weight").is_some()
    }

    /// ReLU in OPT, but GELU in Galactica, which says so.
    fn activation(&self) -> Result<Activation, Error> {
        if !self.arch.varies {
            return Ok(self.arch.activation);
        }
        match self.meta.str(&self.key("activation"))? {
            None => Ok(self.arch.activation),
            Some("relu") => Ok(Activation::Relu),
            Some("gelu") => Ok(Activation::Gelu),
            Some(other) => Err(self.invalid("activation", "relu or gelu", format!("`{other}`"))),
        }
    }

    fn n_embd_word(&self, n_embd: usize) -> Result<usize, Error> {
        if !self.arch.varies {
            return Ok(n_embd);
        }
        let n_vocab = self.n_vocab()?;
        if let Some(n) = self.optional_size("vocab_size")?.filter(|&n| n != n_vocab) {
            return Err(self.invalid("vocab_size", &format!("the {n_vocab} rows of `token_embd.weight`"), n));
        }
        Ok(self.optional_size("word_embed_proj_dim")?.unwrap_or(n_embd))
    }

    fn window(&self, rope: Option<Rope>) -> Result<Option<Window>, Error> {
        let (Some(windows), Some(rope)) = (self.arch.windows, rope) else { return Ok(None) };
        let Some(size) = self.optional_size("attention.sliding_window")? else { return Ok(None) };
        let freq_base = self.freq_base("rope.freq_base_swa")?.unwrap_or(windows.freq_base);
        Ok(Some(Window {
            size: self.check_positions("attention.sliding_window", size)?,
            period: self.optional_size("attention.sliding_window_pattern")?.unwrap_or(windows.period),
            // Positions are stretched in the layers that see all of them.
            rope: Rope { freq_base, freq_scale: 1.0, ..rope },
        }))
    }

    fn softcaps(&self) -> Result<Option<Softcaps>, Error> {
        const CAPS: Within = Within { least: 1e-3, most: 1e6 };
        let Some(usual) = self.arch.softcaps else { return Ok(None) };
        Ok(Some(Softcaps {
            attention: self.number("attn_logit_softcapping", CAPS)?.unwrap_or(usual.attention),
            output: self.number("final_logit_softcapping", CAPS)?.unwrap_or(usual.output),
        }))
    }

    /// llama.cpp's keys for RoPE and its scaling. YaRN: arXiv 2309.00071.
    fn rope(&self, head_dim: usize, pairs: Pairs) -> Result<Rope, Error> {
        let n_dims = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        if n_dims > head_dim || !n_dims.is_multiple_of(2) {
            let expected = format!("an even number up to the head's {head_dim}");
            return Err(self.invalid("rope.dimension_count", &expected, n_dims));
        }
        let factor = self.scaling_factor("rope.scaling.factor")?.or(self.scaling_factor("rope.scale_linear")?);
        let factor = factor.unwrap_or(1.0);
        let kind_key = self.key("rope.scaling.type");
        let kind = self.meta.str(&kind_key)?.unwrap_or("linear");
        // Below zero it is not set, as in llama.cpp.
        let ext_factor = self.number("rope.scaling.yarn_ext_factor", Within { least: -1.0, most: 1.0 })?;
        let (freq_scale, ext_factor) = match kind {
            "none" => (1.0, 0.0),
            "linear" => (1.0 / factor, 0.0),
            "yarn" => (1.0 / factor, ext_factor.filter(|&x| x >= 0.0).unwrap_or(1.0)),
            other => return Err(self.invalid("rope.scaling.type", "one of none, linear, yarn", format!("`{other}`"))),
        };
        let within = |least, most| Within { least, most };
        Ok(Rope {
            pairs,
            n_dims,
            freq_base: self.freq_base("rope.freq_base")?.unwrap_or(10_000.0),
            freq_scale,
            ext_factor,
            attn_factor: self.number("rope.scaling.attn_factor", within(1e-3, 1e3))?.unwrap_or(1.0),
            beta_fast: self.number("rope.scaling.yarn_beta_fast", within(1e-3, 1e6))?.unwrap_or(32.0),
            beta_slow: self.number("rope.scaling.yarn_beta_slow", within(1e-3, 1e6))?.unwrap_or(1.0),
            n_ctx_orig: match self.optional_size("rope.scaling.original_context_length")? {
                Some(n) => self.check_positions("rope.scaling.original_context_length", n)?,
                None => self.n_ctx_train()?,
            },
        })
    }

    /// The logarithm of the base divides, and angles grow with its inverse: from 1 down there is no rotation to speak of.
    fn freq_base(&self, key: &str) -> Result<Option<f32>, Error> {
        self.number(key, Within { least: 1.0 + f32::EPSILON, most: 1e30 })
    }

    /// By how much positions are stretched; 0 stands for not at all.
    fn scaling_factor(&self, key: &str) -> Result<Option<f32>, Error> {
        if self.f32(key)? == Some(0.0) {
            return Ok(None);
        }
        self.number(key, Within { least: 1e-3, most: 1e6 })
    }

    fn n_ctx_train(&self) -> Result<usize, Error> {
        self.check_positions("context_length", self.size("context_length")?)
    }

    fn check_positions(&self, key: &str, n: usize) -> Result<usize, Error> {
        if n > MAX_POSITIONS {
            return Err(self.invalid(key, &format!("at most {MAX_POSITIONS} tokens"), n));
        }
        Ok(n)
    }

    fn n_vocab(&self) -> Result<usize, Error> {
        let embedding =
            self.file.tensor("token_embd.weight").ok_or_else(|| Error::missing(self.file, "token_embd.weight"))?;
        match embedding.shape[1] {
            0 => {
                let found = format!("{:?}", embedding.dims());
                Err(Error::unsupported(self.file, "token_embd.weight", "a row for each token".to_owned(), found))
            }
            // Tokens are i32 in ggml.
            n if n > MAX_POSITIONS => {
                let expected = format!("at most {MAX_POSITIONS} rows");
                Err(Error::unsupported(self.file, "token_embd.weight", expected, n.to_string()))
            }
            n => Ok(n),
        }
    }

    fn head_dim(&self, key: &str, n_embd: usize, n_head: usize) -> Result<usize, Error> {
        match self.optional_size(key)? {
            Some(n) => Ok(n),
            None if n_embd.is_multiple_of(n_head) => Ok(n_embd / n_head),
            None => {
                Err(self.invalid("attention.head_count", &format!("a divisor of embedding_length {n_embd}"), n_head))
            }
        }
    }

    /// A count that must be there and is at least 1.
    fn size(&self, key: &str) -> Result<usize, Error> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A count of at least 1.
    fn optional_size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.meta.u32(&self.key(key))? {
            Some(0) => Err(self.invalid(key, "at least 1", 0)),
            n => Ok(n.map(|n| n as usize)),
        }
    }

    /// The same, or an array with that of each layer, when all layers agree.
    fn size_of_layers(&self, key: &str, n_layer: usize) -> Result<Option<usize>, Error> {
        let Some(Value::Array(array)) = self.meta.get(&self.key(key)) else { return self.optional_size(key) };
        let first = array.get(0).and_then(|first| first.as_integer()?.try_into().ok()).filter(|&n: &u32| n > 0);
        let Some(first) = first.filter(|_| array.len() == n_layer) else {
            let found = Value::Array(array.clone()).describe();
            return Err(self.invalid(key, &format!("a number from 1 up, or {n_layer}, one for each layer"), found));
        };
        let differs = |&i: &usize| array.get(i).and_then(|n| n.as_integer()) != Some(first.into());
        match (1..n_layer).find(differs) {
            Some(i) => {
                let expected = format!("one number for all layers ({first} in the first)");
                let found = array.get(i).map_or_else(String::new, |n| n.describe());
                Err(self.invalid(key, &expected, format!("{found} in layer {i}")))
            }
            None => Ok(Some(first as usize)),
        }
    }

    /// A number between bounds, both included: beyond them the forward pass gives NaN or nothing of use.
    fn number(&self, key: &str, Within { least, most }: Within) -> Result<Option<f32>, Error> {
        match self.f32(key)? {
            Some(x) if !(least..=most).contains(&x) => {
                let most = if most < 1e7 { most.to_string() } else { format!("{most:e}") };
                Err(self.invalid(key, &format!("a number from {least} to {most}"), x))
            }
            x => Ok(x),
        }
    }

    fn missing(&self, key: &str) -> Error {
        self.invalid(key, "a number", "nothing")
    }

    fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        Ok(self.meta.f32(&self.key(key))?)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name)
    }

    fn invalid(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        Error::unsupported(self.file, &self.key(key), expected.to_owned(), found.to_string())
    }
}
