//! Owns the OPT architecture: its configuration, the names and shapes of its tensors, its metadata. Covers the variants
//! that were published: pre-norm (all sizes but one), 350m with its norms behind the sublayers and a narrow embedding,
//! Galactica without biases. Refuses other activations.

use super::Error;
use super::json::Object;
use super::target::{Rows, Target, Targets};
use crate::gguf::Metadata;

/// The positions that the embedding begins with and that no token has.
const POSITION_OFFSET: usize = 2;

/// transformers has no setting for it: PyTorch's default.
const LAYER_NORM_EPS: f32 = 1e-5;

/// The facts of a `config.json`.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) n_vocab: usize,
    n_layer: usize,
    n_embd: usize,
    /// Width of the token embedding: `n_embd`, or less with projections in and out.
    n_proj: usize,
    n_ff: usize,
    n_head: usize,
    n_context: usize,
    activation: String,
    norm_before: bool,
    final_norm: bool,
    biases: bool,
    norm_weights: bool,
    tied: bool,
}

impl Config {
    pub(super) fn read(json: Object) -> Result<Config, Error> {
        let flag = |key: &str, default| Ok::<_, Error>(json.bool(key)?.unwrap_or(default));
        let n_embd = json.need_count("hidden_size")?;
        let norm_before = flag("do_layer_norm_before", true)?;
        let config = Config {
            n_vocab: json.need_count("vocab_size")?,
            n_layer: json.need_count("num_hidden_layers")?,
            n_embd,
            n_proj: json.count("word_embed_proj_dim")?.unwrap_or(n_embd),
            n_ff: json.need_count("ffn_dim")?,
            n_head: json.need_count("num_attention_heads")?,
            n_context: json.need_count("max_position_embeddings")?,
            activation: json.str("activation_function")?.unwrap_or("relu").to_owned(),
            norm_before,
            final_norm: norm_before && !flag("_remove_final_layer_norm", false)?,
            biases: flag("enable_bias", true)?,
            norm_weights: flag("layer_norm_elementwise_affine", true)?,
            tied: flag("tie_word_embeddings", true)?,
        };
        if !matches!(config.activation.as_str(), "relu" | "gelu") {
            return Err(json.error("activation_function", "`relu` or `gelu`", format_args!("`{}`", config.activation)));
        }
        if !n_embd.is_multiple_of(config.n_head) {
            let expected = format!("a divisor of the {n_embd} of `hidden_size`");
            return Err(json.error("num_attention_heads", expected, config.n_head));
        }
        Ok(config)
    }

    pub(super) fn n_layer(&self) -> usize {
        self.n_layer
    }

    /// Every tensor by its name in the checkpoint, without a leading `model.`.
    pub(super) fn targets(&self) -> Targets {
        let mut targets = Targets::new();
        let mut put = |name: &str, target: Target| drop(targets.insert(name.to_owned(), target));
        put("decoder.embed_tokens.weight", Target::new("token_embd.weight", &[self.n_vocab, self.n_proj]));
        let positions = [self.n_context + POSITION_OFFSET, self.n_embd];
        let positions = Target::new("position_embd.weight", &positions).rows(Rows::Skip(POSITION_OFFSET));
        put("decoder.embed_positions.weight", positions);
        if self.n_proj != self.n_embd {
            put("decoder.project_in.weight", Target::new("token_embd_proj_in.weight", &[self.n_embd, self.n_proj]));
            put("decoder.project_out.weight", Target::new("token_embd_proj_out.weight", &[self.n_proj, self.n_embd]));
        }
        let head = [self.n_vocab, self.n_proj];
        put("lm_head.weight", if self.tied { Target::dropped(&head) } else { Target::head(&head) });
        for il in 0..self.n_layer {
            self.norm(
                &mut targets,
                &format!("decoder.layers.{il}.self_attn_layer_norm"),
                &format!("blk.{il}.attn_norm"),
            );
            self.norm(&mut targets, &format!("decoder.layers.{il}.final_layer_norm"), &format!("blk.{il}.ffn_norm"));
            for (module, name, shape) in self.linears() {
                self.linear(&mut targets, &format!("decoder.layers.{il}.{module}"), &format!("blk.{il}.{name}"), shape);
            }
        }
        if self.final_norm {
            self.norm(&mut targets, "decoder.final_layer_norm", "output_norm");
        }
        targets
    }

    /// Names and shapes [out, in] of a layer's matrices.
    fn linears(&self) -> [(&'static str, &'static str, [usize; 2]); 6] {
        let (n, n_ff) = (self.n_embd, self.n_ff);
        [
            ("self_attn.q_proj", "attn_q", [n, n]),
            ("self_attn.k_proj", "attn_k", [n, n]),
            ("self_attn.v_proj", "attn_v", [n, n]),
            ("self_attn.out_proj", "attn_output", [n, n]),
            ("fc1", "ffn_up", [n_ff, n]),
            ("fc2", "ffn_down", [n, n_ff]),
        ]
    }

    fn linear(&self, targets: &mut Targets, module: &str, name: &str, shape: [usize; 2]) {
        targets.insert(format!("{module}.weight"), Target::new(format!("{name}.weight"), &shape));
        if self.biases {
            targets.insert(format!("{module}.bias"), Target::new(format!("{name}.bias"), &shape[..1]));
        }
    }

    /// A norm without weights is one with ones and zeros.
    fn norm(&self, targets: &mut Targets, module: &str, name: &str) {
        for (part, neutral) in [("weight", 1.0), ("bias", 0.0)] {
            let to = format!("{name}.{part}");
            let shape = [self.n_embd];
            let target = if self.norm_weights { Target::new(to, &shape) } else { Target::filled(to, &shape, neutral) };
            targets.insert(format!("{module}.{part}"), target);
        }
    }

    pub(super) fn write(&self, file_type: u32, meta: &mut Metadata) {
        let mut put = |key: &str, n: usize| drop(meta.insert(format!("opt.{key}"), n as u32));
        put("context_length", self.n_context);
        put("embedding_length", self.n_embd);
        put("word_embed_proj_dim", self.n_proj);
        put("block_count", self.n_layer);
        put("feed_forward_length", self.n_ff);
        put("attention.head_count", self.n_head);
        put("attention.head_count_kv", self.n_head);
        meta.insert("opt.attention.layer_norm_epsilon", LAYER_NORM_EPS);
        meta.insert("opt.activation", self.activation.as_str());
        meta.insert("opt.do_layer_norm_before", self.norm_before);
        meta.insert("opt.vocab_size", self.n_vocab as u32);
        meta.insert("general.file_type", file_type);
    }
}

/// The name of a tensor in [`Config::targets`]: checkpoints have them with and without `model.`.
pub(super) fn name_of(name: &str) -> Option<&str> {
    Some(name.strip_prefix("model.").filter(|rest| rest.starts_with("decoder.")).unwrap_or(name))
}
