//! Which layers run, and what `layers` takes.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::LoadArgs;
use super::value::{factor, positive, share};
use crate::plan::Layers;

/// `--layers`: a plan, or a file that holds one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LayersArg {
    Plan(Layers),
    File(PathBuf),
}

impl FromStr for LayersArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LayersArg, String> {
        match text.strip_prefix('@') {
            Some("") => Err("expected a file behind `@`".into()),
            Some(path) => Ok(LayersArg::File(path.into())),
            None => Layers::parse(text).map(LayersArg::Plan).map_err(|e| e.to_string()),
        }
    }
}

/// `layers`.
#[derive(Args, Debug)]
#[command(after_help = "\
A plan says which layers run: `0-20,21:mlp,23-29` lists layers, ranges and halves (`:attn`, `:mlp`); `~7` leaves out, \
`~20-29:attn` leaves a half out, `5<>6` swaps, `8-12x2` repeats. Items that only change start from full depth. \
`--layers PLAN` runs one with run, chat, bench, eval, perplexity, imatrix and logits, `--layers @FILE` reads it from a file.")]
pub struct LayersArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LayersCommand,
}

impl LayersArgs {
    /// What is loaded.
    pub fn load(&self) -> &LoadArgs {
        match &self.command {
            LayersCommand::Scan(args) => &args.load,
            LayersCommand::Prune(args) => &args.load,
        }
    }
}

/// The subcommands of `layers`.
#[derive(Debug, Subcommand)]
pub enum LayersCommand {
    /// Delete, swap and halve every layer, and measure what that does to a text
    Scan(ScanArgs),
    /// Choose what to leave out for good, by what it costs and what it saves
    Prune(PruneArgs),
}

/// The text that layers are measured on.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Text options")]
pub struct MeasureArgs {
    /// The text [default: stdin]
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,
    /// Read the text from a file; - is stdin
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Tokens of the text that are used, at most
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = positive)]
    pub tokens: usize,
    /// Tokens that are evaluated together; what follows the later half of them is measured
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub window: usize,
}

/// `layers scan`.
#[derive(Args, Debug)]
pub struct ScanArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "HTML", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Keep what is measured in this file while the scan runs, and go on from it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: MeasureArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
}

/// `layers prune`.
#[derive(Args, Debug)]
#[command(after_help = "\
The text is cut into windows: every second one decides what is left out, the others say what that costs. Without a limit \
(--loss, --speed, --skip) the perplexity may rise by 5 %.")]
pub struct PruneArgs {
    /// How the next part is chosen: `latter` takes the last that is left, `measured` what alone changes the predictions
    /// least, `greedy` what changes them least after all that is already left out
    #[arg(long, value_enum, default_value_t = MethodArg::Greedy)]
    pub method: MethodArg,
    /// What may be left out [default: attn with --method latter, else any]
    #[arg(long, value_enum)]
    pub parts: Option<PartsArg>,
    /// Stop before the perplexity rises by more than this share
    #[arg(long, value_name = "X", value_parser = share)]
    pub loss: Option<f64>,
    /// Stop when a token is expected to be generated this many times as fast
    #[arg(long, value_name = "X", value_parser = factor)]
    pub speed: Option<f64>,
    /// Stop after leaving out so many parts
    #[arg(long, value_name = "N", value_parser = positive)]
    pub skip: Option<usize>,
    /// Parts that are tried for each that is left out, those first that changed least when last tried (greedy)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub tries: usize,
    /// Tokens before the one that speed is measured on
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    pub at_context: usize,
    /// Write the plan into a file, for --layers @FILE
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Write a model file that has only what the plan runs. It runs here; where only whole layers are left out, and
    /// everywhere else that GGUF runs
    #[arg(long, value_name = "GGUF", value_hint = ValueHint::FilePath)]
    pub write: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "HTML", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: MeasureArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
}

/// How parts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum MethodArg {
    Latter,
    Measured,
    Greedy,
}

/// Which parts may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum PartsArg {
    Attn,
    Mlp,
    Halves,
    Layers,
    Any,
}
