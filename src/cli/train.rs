//! What `train-exit` and `eval` take.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::value::{fixed_seed, fraction, number, positive};
use super::{LoadArgs, TemplateArgs};

/// `train-exit`.
#[derive(Args, Debug)]
#[command(after_help = "\
A task is a TOML file beside its rows (docs/src/guide/answers.md); `self` needs none. The file written holds a policy for each task, and the model's \
fingerprint; `eval --exit` uses it.

--preset adainfer is the paper's setting: top probability and gap over the whole vocabulary, a support vector machine, \
a look after every layer.")]
pub struct TrainExitArgs {
    /// Task to fit, or `self` for the model's own answers to built-in prompts; may be repeated
    #[arg(long, value_name = "TOML", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    pub task: Vec<PathBuf>,
    /// Exit file to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// What a checkpoint reads: the hidden state, the labels' logits, or the whole vocabulary's [default: the hidden state
    /// where the task has labels, else the vocabulary or the choices]
    #[arg(long, value_enum)]
    pub input: Option<InputArg>,
    /// Put a linear lens, fitted to what the last layer would make of the state, before the output head
    #[arg(long)]
    pub lens: bool,
    /// What the read-out is fitted to: full depth's answers, or the true labels
    #[arg(long, value_enum, default_value_t = TargetArg::Model)]
    pub target: TargetArg,
    /// What decides: a threshold on the top probability, or a classifier of it and the gap, per checkpoint or one for all;
    /// `auto` tries all of them and keeps the best
    #[arg(long, value_enum, default_value_t = RuleArg::Auto)]
    pub rule: RuleArg,
    /// A named setting for the three above
    #[arg(long, value_enum, conflicts_with_all = ["input", "target", "rule", "lens"])]
    pub preset: Option<PresetArg>,
    /// Share of answers that shall be full depth's [default: 0.98; with --input labels 0.97]
    #[arg(long, value_name = "X", value_parser = fraction)]
    pub agreement: Option<f32>,
    /// Accuracy that may be lost against the best policy, with --target truth
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = fraction)]
    pub loss: f32,
    /// Training rows per task at most
    #[arg(long, value_name = "N", default_value_t = 750, value_parser = positive)]
    pub rows: usize,
    /// With `self`: built-in prompts to learn from at most; fewer are quicker on a large model [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub prompts: Option<usize>,
    /// With `self`: search also where drafts for `--exit verified` shall come from, by trying (takes minutes)
    #[arg(long)]
    pub search_drafts: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: TemplateArgs,
    /// Solved examples in every prompt, instead of the task's number
    #[arg(long, value_name = "N", value_parser = number)]
    pub shots: Option<usize>,
    /// First layer after which stopping is considered [default: a fifth of the layers]
    #[arg(long, value_name = "LAYER", value_parser = positive)]
    pub from_layer: Option<usize>,
    /// Seed of shots and folds
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = fixed_seed)]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
}

/// What a checkpoint reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum InputArg {
    Hidden,
    Labels,
    Vocabulary,
}

/// What a read-out is fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum TargetArg {
    Model,
    Truth,
}

/// What decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum RuleArg {
    Auto,
    Threshold,
    Logistic,
    SvmLinear,
    Svm,
    Crf,
}

/// Named settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum PresetArg {
    Adainfer,
}

/// `eval`.
#[derive(Args, Debug)]
#[command(after_help = "\
With --layers or --beside a second table puts full depth, fewer layers, the early stop and both beside each other, on every \
model file.")]
pub struct EvalArgs {
    /// Exit file that `train-exit` wrote for this model
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exit: PathBuf,
    /// Task to run; may be repeated
    #[arg(long, value_name = "TOML", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    pub task: Vec<PathBuf>,
    /// Held-out rows per task at most
    #[arg(long, value_name = "N", default_value_t = 750, value_parser = positive)]
    pub rows: usize,
    /// Solved examples in every prompt, instead of the task's number
    #[arg(long, value_name = "N", value_parser = number)]
    pub shots: Option<usize>,
    /// Another quantization of the model (GGUF), to be measured in the same ways
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub beside: Option<PathBuf>,
    /// Evaluate the solved examples anew for every question
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// Questions that run side by side, each leaving at its own depth
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub parallel: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "HTML", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Seed that the exit file was trained with: it chooses the solved examples
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = fixed_seed)]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
}
