//! Which model, and how it is loaded.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum, ValueHint};

use super::value::{dtype, number, positive, threads};
use super::{DeviceArgs, LayersArg};
use crate::dtype::DType;

/// Which model.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model file (GGUF), or a model of the hub as `pull` takes it: ORG/REPO or ORG/REPO:QUANT [default: the
    /// environment's CURTAIL_MODEL, else the one in models/]
    // Not clap's `env`: a variable would count as typed, and stand against a model that is named by its place.
    #[arg(short, long, value_name = "MODEL", value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,
}

impl ModelArgs {
    /// The model that is named: by the flag, else by the environment.
    pub fn named(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("CURTAIL_MODEL").filter(|name| !name.is_empty()).map(PathBuf::from);
        self.model.clone().or_else(variable)
    }
}

/// How a model is loaded and how much it remembers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model options")]
pub struct LoadArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Threads that compute, at most as many as run at once [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub context: ContextArgs,
    /// Which layers run: a plan as in 0-20,21:mlp,23-29 or ~7,5<>6,~20-29:attn (`layers --help`), or @FILE [default: all]
    #[arg(long, value_name = "PLAN", value_parser = LayersArg::from_str)]
    pub layers: Option<LayersArg>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub devices: DeviceArgs,
}

/// The shape of the cache.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model options")]
pub struct ContextArgs {
    /// Context size in tokens; 0 takes what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = number)]
    pub ctx_size: usize,
    /// Tokens of a prompt evaluated at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub batch_size: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
}

/// How the cache is stored and read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model options")]
pub struct CacheArgs {
    /// Type of the cached keys (f16, q8_0 ...)
    #[arg(long, visible_alias = "ctk", value_name = "TYPE", default_value = "f16", value_parser = dtype)]
    pub cache_type_k: DType,
    /// Type of the cached values
    #[arg(long, visible_alias = "ctv", value_name = "TYPE", default_value = "f16", value_parser = dtype)]
    pub cache_type_v: DType,
    /// Flash attention: less memory at long contexts, on the CPU a little less accurate [default: on GPUs, and where
    /// the cached values are quantized]
    #[arg(long, visible_alias = "fa", value_enum, value_name = "on|off")]
    #[arg(num_args = 0..=1, default_missing_value = "on", hide_possible_values = true)]
    pub flash_attn: Option<Switch>,
}

impl CacheArgs {
    /// Whether attention is one fused operation, where the flags say so.
    pub fn wants_flash_attn(&self) -> Option<bool> {
        self.flash_attn.map(|switch| switch == Switch::On)
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    #[value(alias = "1", alias = "true")]
    On,
    #[value(alias = "0", alias = "false")]
    Off,
}
