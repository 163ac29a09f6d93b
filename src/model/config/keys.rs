//! Owns the way from a file's keys to a [`Config`]. Refuses numbers that do not fit together.

use super::super::Error;
use super::super::arch::{Halves, LogitScale, NormKind, Norms, Positions, Softcaps};
use super::read::{Keys, Within};
use super::{Config, Experts, MAX_POSITIONS, Window};
use crate::ggml::{Activation, Rope};

/// Experts that a token may take: each is a few nodes of a graph.
const MOST_USED: usize = 32;

impl Keys<'_> {
    pub(super) fn config(&self) -> Result<Config, Error> {
        let n_embd = self.size("embedding_length")?;
        let n_layer = self.n_layer()?;
        let n_head = self.size_of_layers("attention.head_count", n_layer)?;
        let n_head = n_head.ok_or_else(|| self.missing("attention.head_count"))?;
        let head_dim_k = self.head_dim("attention.key_length", n_embd, n_head)?;
        let head_dim_v = self.head_dim("attention.value_length", n_embd, n_head)?;
        let rope = match self.arch.positions {
            Positions::Rotary(pairs) => Some(self.rope(head_dim_k, pairs)?),
            Positions::Learned => None,
        };
        let experts = self.experts()?;
        let config = Config {
            architecture: self.arch.name.to_owned(),
            name: self.name(),
            n_layer,
            n_embd,
            n_ff: self.n_ff(n_layer, experts)?,
            n_head,
            n_head_kv: self.size_of_layers("attention.head_count_kv", n_layer)?.unwrap_or(n_head),
            head_dim_k,
            head_dim_v,
            n_vocab: self.n_vocab()?,
            n_ctx_train: self.n_ctx_train()?,
            norm: self.arch.norm,
            norm_eps: self.norm_eps()?,
            norms: self.norms()?,
            is_parallel: self.is_parallel()?,
            has_output_norm: self.has_output_norm(),
            rope,
            rotates: self.arch.rotates,
            activation: self.activation()?,
            n_embd_word: self.n_embd_word(n_embd)?,
            embedding_scale: match self.arch.scales_embeddings {
                true => Some((n_embd as f32).sqrt()),
                false => self.scale("embedding_scale")?,
            },
            residual_scale: self.scale("residual_scale")?,
            logit_scale: self.logit_scale()?,
            window: self.window(rope)?,
            attention_scale: match (self.factor("attention.scale")?, self.arch.n_layer_scaled_by_width) {
                (Some(scale), _) => scale,
                (None, Some(n)) if n == n_layer => 1.0 / (n_embd as f32 / n_head as f32).sqrt(),
                _ => 1.0 / (head_dim_k as f32).sqrt(),
            },
            softcaps: self.softcaps()?,
            experts,
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

    /// Networks of each layer, and those that a token takes.
    fn experts(&self) -> Result<Option<Experts>, Error> {
        // Routing sorts the scores of all; the largest known model has 512.
        const MOST: usize = 4096;
        let n = match self.meta.u32(&self.key("expert_count"))? {
            None | Some(0) => return Ok(None),
            Some(n) => n as usize,
        };
        if !self.arch.has_experts {
            let expected = format!("none (files of `{}` with experts do not run)", self.arch.name);
            return Err(self.invalid("expert_count", &expected, n));
        }
        if n > MOST {
            return Err(self.invalid("expert_count", &format!("at most {MOST}"), n));
        }
        let n_used = self.size("expert_used_count")?;
        if n_used > n.min(MOST_USED) {
            let expected = format!("at most {}", n.min(MOST_USED));
            return Err(self.invalid("expert_used_count", &expected, n_used));
        }
        if let Some(n @ 1..) = self.meta.u32(&self.key("expert_shared_feed_forward_length"))? {
            return Err(self.invalid(
                "expert_shared_feed_forward_length",
                "0 (experts that all tokens take do not run)",
                n,
            ));
        }
        Ok(Some(Experts { n, n_used }))
    }

    fn n_ff(&self, n_layer: usize, experts: Option<Experts>) -> Result<usize, Error> {
        let of_experts = match experts {
            Some(_) => self.size_of_layers("expert_feed_forward_length", n_layer)?,
            None => None,
        };
        match of_experts {
            Some(n_ff) => Ok(n_ff),
            None => {
                self.size_of_layers("feed_forward_length", n_layer)?.ok_or_else(|| self.missing("feed_forward_length"))
            }
        }
    }

    fn is_parallel(&self) -> Result<bool, Error> {
        Ok(match self.arch.halves {
            Halves::InTurn => false,
            Halves::SideBySide => true,
            Halves::AsTheFileSays => self.meta.bool(&self.key("use_parallel_residual"))?.unwrap_or(true),
        })
    }

    fn logit_scale(&self) -> Result<Option<f32>, Error> {
        let scale = self.factor("logit_scale")?;
        Ok(match self.arch.logit_scale {
            LogitScale::Divides => scale.map(|scale| 1.0 / scale),
            LogitScale::Multiplies => scale,
        }
        .filter(|&scale| scale != 1.0))
    }

    /// A factor that is not 1.
    fn scale(&self, key: &str) -> Result<Option<f32>, Error> {
        Ok(self.factor(key)?.filter(|&factor| factor != 1.0))
    }

    /// A factor; 0 stands for none.
    fn factor(&self, key: &str) -> Result<Option<f32>, Error> {
        if self.f32(key)? == Some(0.0) {
            return Ok(None);
        }
        self.number(key, Within { least: 1e-6, most: 1e6 })
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
        let key = "attention.sliding_window";
        // Phi 4 says 0, which is no window.
        let Some(size @ 1..) = self.meta.u32(&self.key(key))? else { return Ok(None) };
        Ok(Some(Window {
            size: self.check_positions(key, size as usize)?,
            period: match windows.period {
                None => None,
                Some(period) => Some(self.optional_size("attention.sliding_window_pattern")?.unwrap_or(period)),
            },
            rope: match (windows.freq_base, self.freq_base("rope.freq_base_swa")?) {
                (None, None) => rope,
                (None, Some(freq_base)) => Rope { freq_base, ..rope },
                // Positions are stretched in the layers that see all of them.
                (Some(usual), said) => Rope { freq_base: said.unwrap_or(usual), freq_scale: 1.0, ..rope },
            },
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
}
