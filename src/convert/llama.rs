//! Owns the Llama architecture: its configuration, the names and shapes of its tensors, its metadata. Refuses
//! configurations whose numbers do not fit together or ask for what GGUF's `llama` is not.

use std::f64::consts::PI;

use super::Error;
use super::json::{Object, shown};
use super::target::{Output, Rows, Target, Targets};
use crate::gguf::Metadata;

/// The facts of a `config.json`.
#[derive(Debug)]
pub(super) struct Config<'a> {
    pub(super) n_vocab: usize,
    n_layer: usize,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_context: usize,
    rms_eps: f64,
    tied: bool,
    attention_bias: bool,
    mlp_bias: bool,
    rope: Rope<'a>,
}

/// How positions become angles.
#[derive(Debug)]
struct Rope<'a> {
    theta: f64,
    kind: String,
    /// The object of `rope_scaling` or `rope_parameters`.
    settings: Option<Object<'a>>,
    original_context: usize,
    n_context: usize,
}

/// What transformers takes where a configuration says nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    n_context: usize,
    /// `None` where there are as many as query heads.
    n_head_kv: Option<usize>,
    sliding_window: Option<usize>,
}

/// `LlamaForCausalLM`.
pub(super) const LLAMA: Defaults = Defaults { n_context: 2048, n_head_kv: None, sliding_window: None };

/// `MistralForCausalLM`: a Llama, but for a window that the first of them had.
pub(super) const MISTRAL: Defaults = Defaults { n_context: 131_072, n_head_kv: Some(8), sliding_window: Some(4096) };

impl<'a> Config<'a> {
    pub(super) fn read(json: Object<'a>, defaults: Defaults, notices: &mut Vec<String>) -> Result<Config<'a>, Error> {
        let n_head = json.need_count("num_attention_heads")?;
        let n_embd = json.need_count("hidden_size")?;
        let n_context = json.count("max_position_embeddings")?.unwrap_or(defaults.n_context);
        let no_kv = || if json.has("num_key_value_heads") { n_head } else { defaults.n_head_kv.unwrap_or(n_head) };
        let config = Config {
            n_vocab: json.need_count("vocab_size")?,
            n_layer: json.need_count("num_hidden_layers")?,
            n_embd,
            n_ff: json.need_count("intermediate_size")?,
            n_head,
            n_head_kv: json.count("num_key_value_heads")?.unwrap_or_else(no_kv),
            head_dim: json.count("head_dim")?.unwrap_or(n_embd / n_head),
            n_context,
            rms_eps: rms_eps(&json)?,
            tied: json.bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: json.bool("attention_bias")?.unwrap_or(false),
            mlp_bias: json.bool("mlp_bias")?.unwrap_or(false),
            rope: Rope::read(&json, n_context, notices)?,
        };
        config.check(&json)?;
        if let Some(window) = sliding_window(&json, defaults)?.filter(|&window| window < n_context) {
            notices.push(format!(
                "the sliding window of {window} tokens is left out, GGUF's `llama` has none: from that many tokens on, answers \
                 differ from the original's"
            ));
        }
        Ok(config)
    }

    fn check(&self, json: &Object) -> Result<(), Error> {
        if !self.n_head.is_multiple_of(self.n_head_kv) {
            let expected = format!("a divisor of the {} heads", self.n_head);
            return Err(json.error("num_key_value_heads", expected, self.n_head_kv));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(json.error("head_dim", "an even count", self.head_dim));
        }
        match json.str("hidden_act")? {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(json.error("hidden_act", "`silu`", format_args!("`{other}`"))),
        }
        match json.f64("partial_rotary_factor")? {
            None | Some(1.0) => Ok(()),
            Some(other) => Err(json.error("partial_rotary_factor", "1", other)),
        }
    }

    pub(super) fn n_layer(&self) -> usize {
        self.n_layer
    }

    /// Every tensor by its name in the checkpoint.
    pub(super) fn targets(&self) -> Targets {
        let mut targets = Targets::new();
        let mut put = |name: String, target: Target| drop(targets.insert(name, target));
        put("model.embed_tokens.weight".into(), Target::new("token_embd.weight", &[self.n_vocab, self.n_embd]));
        put("model.norm.weight".into(), Target::new("output_norm.weight", &[self.n_embd]));
        let head = [self.n_vocab, self.n_embd];
        let head = if self.tied { Target::dropped(&head) } else { Target::head(&head) };
        put("lm_head.weight".into(), head);
        for il in 0..self.n_layer {
            for (module, name) in [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")] {
                let target = Target::new(format!("blk.{il}.{name}.weight"), &[self.n_embd]);
                put(format!("model.layers.{il}.{module}.weight"), target);
            }
            for linear in self.linears() {
                let Linear { module, name, shape, bias, rows } = linear;
                let target = Target::new(format!("blk.{il}.{name}.weight"), &shape).rows(rows);
                put(format!("model.layers.{il}.{module}.weight"), target);
                if bias {
                    let target = Target::new(format!("blk.{il}.{name}.bias"), &shape[..1]).rows(rows);
                    put(format!("model.layers.{il}.{module}.bias"), target);
                }
            }
        }
        targets
    }

    fn linears(&self) -> [Linear; 7] {
        let (n_q, n_kv) = (self.n_head * self.head_dim, self.n_head_kv * self.head_dim);
        let interleaved = Rows::Interleaved { head_dim: self.head_dim };
        let attention = |module, name, shape, rows| Linear { module, name, shape, bias: self.attention_bias, rows };
        let mlp = |module, name, shape| Linear { module, name, shape, bias: self.mlp_bias, rows: Rows::All };
        [
            attention("self_attn.q_proj", "attn_q", [n_q, self.n_embd], interleaved),
            attention("self_attn.k_proj", "attn_k", [n_kv, self.n_embd], interleaved),
            attention("self_attn.v_proj", "attn_v", [n_kv, self.n_embd], Rows::All),
            attention("self_attn.o_proj", "attn_output", [self.n_embd, n_q], Rows::All),
            mlp("mlp.gate_proj", "ffn_gate", [self.n_ff, self.n_embd]),
            mlp("mlp.up_proj", "ffn_up", [self.n_ff, self.n_embd]),
            mlp("mlp.down_proj", "ffn_down", [self.n_embd, self.n_ff]),
        ]
    }

    /// What the file has besides the checkpoint's tensors; it comes first.
    pub(super) fn extra(&self) -> Result<Vec<Output>, Error> {
        let factors = self.rope.llama3_factors(self.head_dim)?;
        Ok(factors.map(|factors| Output::made("rope_freqs.weight", factors)).into_iter().collect())
    }

    pub(super) fn write(&self, file_type: u32, meta: &mut Metadata) -> Result<(), Error> {
        let mut put = |key: &str, n: usize| drop(meta.insert(format!("llama.{key}"), n as u32));
        put("block_count", self.n_layer);
        put("context_length", self.n_context);
        put("embedding_length", self.n_embd);
        put("feed_forward_length", self.n_ff);
        put("attention.head_count", self.n_head);
        put("attention.head_count_kv", self.n_head_kv);
        self.rope.write(meta)?;
        meta.insert("llama.rope.freq_base", self.rope.theta as f32);
        meta.insert("llama.attention.layer_norm_rms_epsilon", self.rms_eps as f32);
        meta.insert("llama.attention.key_length", self.head_dim as u32);
        meta.insert("llama.attention.value_length", self.head_dim as u32);
        meta.insert("general.file_type", file_type);
        meta.insert("llama.vocab_size", self.n_vocab as u32);
        meta.insert("llama.rope.dimension_count", self.head_dim as u32);
        Ok(())
    }
}

fn rms_eps(json: &Object) -> Result<f64, Error> {
    match json.f64("rms_norm_eps")?.unwrap_or(1e-6) {
        eps if eps >= 0.0 && (eps as f32).is_finite() => Ok(eps),
        eps => Err(json.error("rms_norm_eps", "a number of at least 0", eps)),
    }
}

/// How many tokens back attention reaches; `null` says that it reaches all.
fn sliding_window(json: &Object, defaults: Defaults) -> Result<Option<usize>, Error> {
    match defaults.sliding_window {
        None => Ok(None),
        Some(_) if json.has("sliding_window") => json.count("sliding_window"),
        Some(window) => Ok(Some(window)),
    }
}

/// A linear layer of a block: names, shape [out, in], whether it has a bias.
struct Linear {
    module: &'static str,
    name: &'static str,
    shape: [usize; 2],
    bias: bool,
    rows: Rows,
}

/// The name of a tensor in [`Config::targets`]; `None` for the angles that old checkpoints keep.
pub(super) fn name_of(name: &str) -> Option<&str> {
    (!name.ends_with(".rotary_emb.inv_freq")).then_some(name)
}

impl<'a> Rope<'a> {
    fn read(json: &Object<'a>, n_context: usize, notices: &mut Vec<String>) -> Result<Rope<'a>, Error> {
        let settings = match json.object("rope_scaling")? {
            Some(settings) => Some(settings),
            None => json.object("rope_parameters")?,
        };
        let inner = |key: &str| settings.as_ref().map_or(Ok(None), |s| s.f64(key));
        let theta = inner("rope_theta")?.or(json.f64("rope_theta")?).unwrap_or(10000.0);
        let text = |key: &str| settings.as_ref().map_or(Ok(None), |s| s.str(key));
        let kind = text("rope_type")?.or(text("type")?).unwrap_or("default").to_owned();
        let original = settings.as_ref().map_or(Ok(None), |s| s.count("original_max_position_embeddings"))?;
        let original = json.count("original_max_position_embeddings")?.or(original);
        let Some(known) = keys_of(&kind) else {
            let expected = "`default`, `linear`, `yarn`, `llama3` or `dynamic`";
            return Err(json.error("rope_scaling.rope_type", expected, format_args!("`{kind}`")));
        };
        // Its logarithm divides.
        if theta <= 0.0 || theta == 1.0 || !(theta as f32).is_finite() {
            return Err(json.error("rope_theta", "a number above 0 that is not 1", theta));
        }
        if let Some(part) = inner("partial_rotary_factor")?.filter(|&part| part != 1.0) {
            return Err(json.error("rope_parameters.partial_rotary_factor", "1", part));
        }
        let rope = Rope { theta, kind, settings, original_context: original.unwrap_or(n_context), n_context };
        rope.remark(known, notices);
        Ok(rope)
    }

    /// Says what GGUF cannot.
    fn remark(&self, known: &[&str], notices: &mut Vec<String>) {
        if self.kind == "dynamic" {
            notices.push(
                "`dynamic` RoPE scaling is left out, GGUF has no key for it: beyond the original context answers differ".into(),
            );
        }
        let Some(settings) = &self.settings else { return };
        for (key, value) in settings.iter() {
            // YaRN's bounds are rounded unless this is false, and ggml rounds them.
            let is_default = value.is_null() || (key == "truncate" && value == true);
            if !is_default && !known.contains(&key.as_str()) && !SHARED_KEYS.contains(&key.as_str()) {
                notices.push(format!(
                    "`{key}` of RoPE scaling `{}` ({}) is left out: GGUF has no key for it",
                    self.kind,
                    shown(value)
                ));
            }
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.settings.as_ref().map_or(Ok(None), |s| s.f64(key))
    }

    /// A number above 0 that a kind of scaling needs.
    fn factor(&self) -> Result<f64, Error> {
        let Some(settings) = &self.settings else { return Ok(1.0) };
        match settings.f64("factor")? {
            Some(factor) if factor > 0.0 && (factor as f32).is_normal() => Ok(factor),
            Some(other) => Err(settings.error("factor", "a number above 0", other)),
            None if self.kind == "yarn" && settings.has("factor") => {
                Ok(self.n_context as f64 / self.original_context as f64)
            }
            None => Err(settings.error("factor", "a number above 0", "no such key")),
        }
    }

    /// `dynamic` scaling changes nothing within the original context, and GGUF has no key for it.
    fn write(&self, meta: &mut Metadata) -> Result<(), Error> {
        if !matches!(self.kind.as_str(), "linear" | "yarn") {
            return Ok(());
        }
        let factor = self.factor()?;
        meta.insert("llama.rope.scaling.type", self.kind.as_str());
        meta.insert("llama.rope.scaling.factor", factor as f32);
        if self.kind != "yarn" {
            return Ok(());
        }
        meta.insert("llama.rope.scaling.original_context_length", self.original_context as u32);
        let extrapolation = self.number("extrapolation_factor")?;
        let settings = [
            ("yarn_ext_factor", extrapolation),
            ("attn_factor", self.attention_factor(factor, extrapolation.unwrap_or(1.0))?),
            ("yarn_beta_fast", self.turns("beta_fast")?),
            ("yarn_beta_slow", self.turns("beta_slow")?),
        ];
        for (key, value) in settings {
            if let Some(value) = value {
                meta.insert(format!("llama.rope.scaling.{key}"), value as f32);
            }
        }
        Ok(())
    }

    /// What GGUF's attention factor must be, if it is not 1. transformers gives the factor itself; GGUF's is multiplied with
    /// YaRN's own of `1 + 0.1 ln(factor)`, as ggml has it unless it does not extrapolate.
    fn attention_factor(&self, factor: f64, extrapolation: f64) -> Result<Option<f64>, Error> {
        let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let set = |value: Option<f64>| value.filter(|&x| x != 0.0);
        let both = set(self.number("mscale")?).zip(set(self.number("mscale_all_dim")?));
        let own = if extrapolation == 0.0 { 1.0 } else { 1.0 + 0.1 * factor.ln() };
        let found = match (self.number("attention_factor")?, both, self.number("attn_factor")?) {
            (Some(wanted), ..) => wanted / own,
            (None, Some((mscale, all_dim)), _) => scale(mscale) / scale(all_dim) / own,
            // YaRN's first code multiplies, as GGUF does.
            (None, None, Some(times)) => times,
            (None, None, None) => return Ok(None),
        };
        match &self.settings {
            Some(settings) if found <= 0.0 || !(found as f32).is_normal() => {
                Err(settings.error("attention_factor", "numbers that give a factor above 0", found))
            }
            _ => Ok((found as f32 != 1.0).then_some(found)),
        }
    }

    /// How many turns bound the interpolation: transformers takes 0 for nothing.
    fn turns(&self, key: &str) -> Result<Option<f64>, Error> {
        match (self.number(key)?.filter(|&turns| turns != 0.0), &self.settings) {
            (Some(turns), Some(settings)) if turns < 0.0 || !(turns as f32).is_normal() => {
                Err(settings.error(key, "a number above 0", turns))
            }
            (turns, _) => Ok(turns),
        }
    }

    /// What each frequency is divided by, for Llama 3.1's scaling: GGUF has no key for it, the file carries the factors.
    /// In single precision, as the reference computes them.
    fn llama3_factors(&self, head_dim: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some(settings) = self.settings.as_ref().filter(|_| self.kind == "llama3") else { return Ok(None) };
        let factor = self.number("factor")?.unwrap_or(8.0);
        let low = self.number("low_freq_factor")?.unwrap_or(1.0);
        let high = self.number("high_freq_factor")?.unwrap_or(4.0);
        if factor <= 0.0 || low <= 0.0 || high <= low {
            let found = shown(settings.get("high_freq_factor").unwrap_or(&serde_json::Value::Null));
            return Err(settings.error(
                "high_freq_factor",
                "a number above `low_freq_factor`, and `factor` above 0",
                found,
            ));
        }
        let context = self.original_context as f64;
        let divisor = |i: usize| {
            let exponent = i as f32 / head_dim as f32;
            let frequency = 1.0 / self.theta.powf(f64::from(exponent)) as f32;
            let wavelength = (2.0 * PI) as f32 / frequency;
            if f64::from(wavelength) < context / high {
                1.0
            } else if f64::from(wavelength) > context / low {
                factor as f32
            } else {
                let smooth = (context as f32 / wavelength - low as f32) / (high - low) as f32;
                1.0 / ((1.0 - smooth) / factor as f32 + smooth)
            }
        };
        let divisors: Vec<f32> = (0..head_dim).step_by(2).map(divisor).collect();
        match divisors.iter().find(|divisor| !divisor.is_normal()) {
            None => Ok(Some(divisors)),
            Some(divisor) => Err(settings.error("factor", "numbers that divide frequencies", divisor)),
        }
    }
}

/// The settings that each kind of scaling has; `None` for kinds that are not known.
fn keys_of(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "default" => &[],
        "linear" | "dynamic" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor"],
        "yarn" => &[
            "factor",
            "attention_factor",
            "attn_factor",
            "mscale",
            "mscale_all_dim",
            "extrapolation_factor",
            "beta_fast",
            "beta_slow",
            "finetuned",
        ],
        _ => return None,
    })
}

/// The settings that any kind may have.
const SHARED_KEYS: [&str; 5] =
    ["rope_type", "type", "rope_theta", "original_max_position_embeddings", "partial_rotary_factor"];
