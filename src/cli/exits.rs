//! Whether and how tokens stop early.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum, ValueHint};

use super::Switch;
use super::value::{number, positive};
use crate::plan::Layers;

/// Whether and how tokens stop before full depth.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Early exit options")]
pub struct ExitArgs {
    /// How tokens may stop early: `fast` lets stand what a checkpoint is sure of, `verified` gives full depth's text, `auto`
    /// is verified by whatever is measured to pay [default: auto with an exit file, else off]
    #[arg(long, value_enum, value_name = "off|fast|verified|auto", hide_possible_values = true)]
    pub exit: Option<ExitArg>,
    /// Exit file, as `train-exit --task self` writes it [default: the model's name with .exit.gguf, where there is one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exit_file: Option<PathBuf>,
    /// Where verified drafts come from, always: `checkpoints`, `lookup` (what followed the same tokens before), `layer:N`
    /// (every token after N layers), `skip:LIST` (a run without some layers, as in 12-15,20:attn,22:mlp) [default: what is
    /// measured to pay]
    #[arg(long, value_name = "SOURCE", value_parser = DraftArg::from_str)]
    pub draft: Option<DraftArg>,
    /// Drafts between two evaluations at full depth, and tokens that wait for their deeper layers, at most [default: the
    /// exit file's, else 8]
    #[arg(long, value_name = "N", value_parser = draft_max)]
    pub draft_max: Option<usize>,
    /// What becomes of the deeper layers' cache rows of a token that stands early (`fast`): they wait and become full depth's,
    /// or, as others do it, are made of the early state (`propagate`) or left out (`mask`)
    #[arg(long, value_enum, value_name = "deferred|propagate|mask", default_value_t = KvArg::Deferred, hide_possible_values = true)]
    pub kv: KvArg,
    /// Compute only the logits that may be chosen, where that is faster
    #[arg(long, value_enum, value_name = "on|off", default_value_t = Switch::On, hide_possible_values = true)]
    pub shortlist: Switch,
}

/// `--exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum ExitArg {
    Off,
    Fast,
    Verified,
    Auto,
}

/// `--kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum KvArg {
    Deferred,
    Propagate,
    Mask,
}

/// `--draft`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DraftArg {
    /// The exit file's checkpoints.
    Checkpoints,
    /// What followed the same tokens before.
    Lookup,
    /// Every token after so many layers.
    Layer(usize),
    /// A run without the parts of layers that are listed.
    Skip(Layers),
}

impl FromStr for DraftArg {
    type Err = String;

    fn from_str(text: &str) -> Result<DraftArg, String> {
        match text.split_once(':') {
            None if text == "checkpoints" => Ok(DraftArg::Checkpoints),
            None if text == "lookup" => Ok(DraftArg::Lookup),
            Some(("layer", n)) => positive(n).map(DraftArg::Layer),
            Some(("skip", list)) => Layers::parse_skips(list).map(DraftArg::Skip).map_err(|e| e.to_string()),
            _ => Err("expected checkpoints, lookup, layer:N or skip:LIST".into()),
        }
    }
}

impl fmt::Display for DraftArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DraftArg::Checkpoints => f.write_str("checkpoints"),
            DraftArg::Lookup => f.write_str("lookup"),
            DraftArg::Layer(layer) => write!(f, "layer:{layer}"),
            DraftArg::Skip(list) => write!(f, "skip:{}", list.as_str()),
        }
    }
}

pub(super) fn draft_max(text: &str) -> Result<usize, String> {
    number(text).ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| "expected 1 to 64".into())
}
