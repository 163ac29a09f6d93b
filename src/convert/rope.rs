//! Owns rotary positions: kinds of scaling, bases, and the factors of Llama 3.1. Refuses kinds that an architecture of GGUF
//! does not have, and says settings that GGUF has no key for.

use std::f64::consts::PI;

use super::Error;
use super::arch::{Ropes, alternatives};
use super::json::{Object, shown};
use crate::gguf::Metadata;

/// How positions become angles.
#[derive(Debug)]
pub(super) struct Rope<'a> {
    /// What GGUF's keys begin with.
    architecture: &'static str,
    theta: f64,
    /// The base of layers with a window, where they have one of their own.
    local_theta: Option<f64>,
    kind: String,
    /// The object that says the kind.
    settings: Option<Object<'a>>,
    original_context: usize,
    n_context: usize,
    /// The part of each head that rotates.
    part: f64,
}

impl<'a> Rope<'a> {
    pub(super) fn read(
        architecture: &'static str,
        ropes: &Ropes,
        json: &Object<'a>,
        n_context: usize,
        notices: &mut Vec<String>,
    ) -> Result<Rope<'a>, Error> {
        let (settings, local) = settings(json, ropes)?;
        let inner = |key: &str| settings.as_ref().map_or(Ok(None), |s| s.f64(key));
        let theta = inner("rope_theta")?.or(json.f64("rope_theta")?).unwrap_or(ropes.theta);
        let text = |key: &str| settings.as_ref().map_or(Ok(None), |s| s.str(key));
        let kind = text("rope_type")?.or(text("type")?).unwrap_or("default").to_owned();
        let original = settings.as_ref().map_or(Ok(None), |s| s.count("original_max_position_embeddings"))?;
        let original = json.count("original_max_position_embeddings")?.or(original);
        let Some(known) = keys_of(&kind).filter(|_| ropes.kinds.contains(&kind.as_str())) else {
            let found = format_args!("`{kind}`");
            return Err(json.error("rope_scaling.rope_type", alternatives(ropes.kinds), found));
        };
        let local_theta = match ropes.local_theta {
            None => None,
            Some(default) => {
                let inner = local.as_ref().map_or(Ok(None), |s| s.f64("rope_theta"))?;
                Some(inner.or(json.f64("rope_local_base_freq")?).unwrap_or(default))
            }
        };
        // Its logarithm divides.
        for (key, theta) in [("rope_theta", Some(theta)), ("rope_local_base_freq", local_theta)] {
            if let Some(theta) = theta.filter(|&theta| theta <= 0.0 || theta == 1.0 || !(theta as f32).is_finite()) {
                return Err(json.error(key, "a number above 0 that is not 1", theta));
            }
        }
        let inner = inner("partial_rotary_factor")?;
        let part = part(json, ropes, inner)?;
        let original_context = original.unwrap_or(n_context);
        let rope = Rope { architecture, theta, local_theta, kind, settings, original_context, n_context, part };
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

    /// Whether these are what GGUF takes where a file says nothing.
    pub(super) fn is_usual(&self) -> bool {
        self.kind == "default" && self.theta == 10_000.0 && self.local_theta.is_none()
    }

    /// Writes scaling and bases.
    pub(super) fn write(&self, meta: &mut Metadata) -> Result<(), Error> {
        self.write_scaling(meta)?;
        meta.insert(self.key("freq_base"), self.theta as f32);
        if let Some(theta) = self.local_theta {
            meta.insert(self.key("freq_base_swa"), theta as f32);
        }
        Ok(())
    }

    /// Elements of a head that rotate.
    pub(super) fn n_dims(&self, head_dim: usize) -> usize {
        (self.part * head_dim as f64) as usize
    }

    pub(super) fn write_base(&self, meta: &mut Metadata) {
        meta.insert(self.key("freq_base"), self.theta as f32);
    }

    pub(super) fn write_original_context(&self, meta: &mut Metadata) {
        meta.insert(self.key("scaling.original_context_length"), self.original_context as u32);
    }

    /// What `longrope` multiplies the rotated vectors by (arXiv 2402.13753, eq. 6).
    pub(super) fn write_long_factor(&self, meta: &mut Metadata) -> Result<(), Error> {
        if self.kind != "longrope" {
            return Ok(());
        }
        let scale = self.n_context as f64 / self.original_context as f64;
        let usual = if scale <= 1.0 { 1.0 } else { (1.0 + scale.ln() / (self.original_context as f64).ln()).sqrt() };
        let factor = self.number("attention_factor")?.unwrap_or(usual);
        match &self.settings {
            Some(settings) if factor <= 0.0 || !(factor as f32).is_normal() => {
                Err(settings.error("attention_factor", "numbers that give a factor above 0", factor))
            }
            _ => {
                meta.insert(self.key("scaling.attn_factor"), factor as f32);
                Ok(())
            }
        }
    }

    /// What each of `n_dims / 2` frequencies is divided by in long texts, and in short ones, for `longrope`.
    pub(super) fn long_and_short_factors(&self, n_dims: usize) -> Result<Option<[Vec<f32>; 2]>, Error> {
        let Some(settings) = self.settings.as_ref().filter(|_| self.kind == "longrope") else { return Ok(None) };
        let list = |key: &str| {
            let numbers: Option<Vec<f32>> = settings.array(key)?.map_or(Some(Vec::new()), |list| {
                list.iter().map(|x| x.as_f64().map(|x| x as f32).filter(|x| x.is_normal() && *x > 0.0)).collect()
            });
            match numbers.filter(|numbers| numbers.len() == n_dims / 2) {
                Some(numbers) => Ok(numbers),
                None => Err(settings.error(
                    key,
                    format_args!("{} numbers above 0", n_dims / 2),
                    settings.get(key).map_or_else(|| "no such key".to_owned(), shown),
                )),
            }
        };
        Ok(Some([list("long_factor")?, list("short_factor")?]))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.rope.{key}", self.architecture)
    }

    /// `dynamic` scaling changes nothing within the original context, and GGUF has no key for it.
    fn write_scaling(&self, meta: &mut Metadata) -> Result<(), Error> {
        if !matches!(self.kind.as_str(), "linear" | "yarn") {
            return Ok(());
        }
        let factor = self.factor()?;
        meta.insert(self.key("scaling.type"), self.kind.as_str());
        meta.insert(self.key("scaling.factor"), factor as f32);
        if self.kind != "yarn" {
            return Ok(());
        }
        meta.insert(self.key("scaling.original_context_length"), self.original_context as u32);
        let extrapolation = self.number("extrapolation_factor")?;
        let settings = [
            ("yarn_ext_factor", extrapolation),
            ("attn_factor", self.attention_factor(factor, extrapolation.unwrap_or(1.0))?),
            ("yarn_beta_fast", self.turns("beta_fast")?),
            ("yarn_beta_slow", self.turns("beta_slow")?),
        ];
        for (key, value) in settings {
            if let Some(value) = value {
                meta.insert(self.key(&format!("scaling.{key}")), value as f32);
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
    pub(super) fn llama3_factors(&self, head_dim: usize) -> Result<Option<Vec<f32>>, Error> {
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

/// The object that says the kind of rotation, and that of layers with a window: old checkpoints have the first in
/// `rope_scaling`, new ones in `rope_parameters`, by kind of layer where layers differ.
fn settings<'a>(json: &Object<'a>, ropes: &Ropes) -> Result<(Option<Object<'a>>, Option<Object<'a>>), Error> {
    let scaling = json.object("rope_scaling")?;
    let parameters = json.object("rope_parameters")?;
    if ropes.local_theta.is_none() {
        if let Some(by_kind) = parameters.as_ref().filter(|by_kind| by_kind.has("full_attention")) {
            return Err(by_kind.error(
                "full_attention",
                "no such key: one rotation for all layers",
                "one by kind of layer",
            ));
        }
        return Ok((scaling.or(parameters), None));
    }
    let Some(parameters) = parameters else { return Ok((scaling, None)) };
    let (full, local) = (parameters.object("full_attention")?, parameters.object("sliding_attention")?);
    if full.is_none() {
        return Err(parameters.error("full_attention", "an object", "no such key"));
    }
    if let Some(local) = &local
        && let Some(kind) = local.str("rope_type")?.filter(|&kind| kind != "default")
    {
        return Err(local.error("rope_type", "`default`", format_args!("`{kind}`")));
    }
    Ok((scaling.or(full), local))
}

/// The part of each head that rotates.
fn part(json: &Object, ropes: &Ropes, inner: Option<f64>) -> Result<f64, Error> {
    let said = [
        ("rope_parameters.partial_rotary_factor", inner),
        ("partial_rotary_factor", json.f64("partial_rotary_factor")?),
        match ropes.part {
            Some((old, _)) => (old, json.f64(old)?),
            None => ("", None),
        },
    ];
    let found = said.into_iter().find_map(|(key, part)| Some((key, part?)));
    match (found, ropes.part) {
        (Some((key, part)), None) if part != 1.0 => Err(json.error(key, 1, part)),
        (Some((key, part)), Some(_)) if !(part > 0.0 && part <= 1.0) => {
            Err(json.error(key, "a number above 0, up to 1", part))
        }
        (Some((_, part)), _) => Ok(part),
        (None, usual) => Ok(usual.map_or(1.0, |(_, part)| part)),
    }
}

/// The settings that each kind of scaling has; `None` for kinds that are not known.
fn keys_of(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "default" => &[],
        "linear" | "dynamic" => &["factor"],
        "longrope" => &["factor", "attention_factor", "long_factor", "short_factor"],
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
