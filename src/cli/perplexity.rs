//! What `perplexity` and `imatrix` take.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum, ValueHint};

use super::value::{count, number, positive, threads};
use super::{
    CacheArgs, ContextArgs, Count, DeviceArgs, ExitArg, ExitArgs, KvArg, LayersArg, LoadArgs, ModelArgs, Switch,
};

/// A text that is read chunk by chunk, and the model that reads it.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Text file; - is stdin
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Tokens of a chunk [default: 512]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    pub ctx_size: Option<usize>,
    /// Chunks at most; -1 takes all
    #[arg(long, value_name = "N", default_value = "-1", value_parser = count, allow_negative_numbers = true)]
    pub chunks: Count,
    /// Tokens evaluated at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub batch_size: usize,
    /// Threads that compute, at most as many as run at once [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<u32>,
    /// Which layers run: a plan as `layers --help` explains, or @FILE [default: all]
    #[arg(long, value_name = "PLAN", value_parser = LayersArg::from_str)]
    pub layers: Option<LayersArg>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub devices: DeviceArgs,
}

impl TextArgs {
    /// How a model is loaded that reads chunks of `n_ctx` tokens.
    pub fn load(&self, n_ctx: usize) -> LoadArgs {
        let context = ContextArgs { ctx_size: n_ctx, batch_size: self.batch_size, cache: self.cache.clone() };
        LoadArgs {
            model: self.model.clone(),
            threads: self.threads,
            context,
            layers: self.layers.clone(),
            devices: self.devices.clone(),
        }
    }
}

/// `perplexity`.
#[derive(Args, Debug)]
#[command(after_help = "\
By llama.cpp's conventions: the text is cut into chunks of -c tokens, each is evaluated by itself behind the token that begins \
a text, and the second half of each is scored. --kl-divergence-base writes the distributions of this run (large: 2 bytes for \
each token of the vocabulary at each scored place), with --kl-divergence it reads them, and the text with them.

With --exit fast or --exit-layers the same run measures full depth too, unless stored distributions are given, and tells how far \
the two are apart.")]
pub struct PerplexityArgs {
    /// File of distributions to write, or with --kl-divergence to read
    #[arg(long, visible_alias = "save-all-logits", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kl_divergence_base: Option<PathBuf>,
    /// Compare with the stored distributions
    #[arg(long, requires = "kl_divergence_base")]
    pub kl_divergence: bool,
    /// Read every token where a checkpoint is sure, as `fast` generates (token by token: slower)
    #[arg(long, value_enum, value_name = "off|fast", hide_possible_values = true)]
    #[arg(help_heading = "Early exit options")]
    pub exit: Option<ReadArg>,
    /// Exit file, as `train-exit --task self` writes it [default: the model's name with .exit.gguf, where there is one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "exit")]
    #[arg(help_heading = "Early exit options")]
    pub exit_file: Option<PathBuf>,
    /// Tokens that wait for their deeper layers at most [default: the exit file's, else 8]
    #[arg(long, value_name = "N", value_parser = super::exits::draft_max, requires = "exit")]
    #[arg(help_heading = "Early exit options")]
    pub draft_max: Option<usize>,
    /// What becomes of the deeper layers' cache rows of an early token
    #[arg(long, value_enum, value_name = "deferred|propagate|mask", default_value_t = KvArg::Deferred)]
    #[arg(hide_possible_values = true, requires = "exit", help_heading = "Early exit options")]
    pub kv: KvArg,
    /// Read tokens after these numbers of layers, one after the other and from the beginning again, without a lens
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', value_parser = positive, conflicts_with = "exit")]
    #[arg(help_heading = "Early exit options")]
    pub exit_layers: Vec<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "HTML", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: TextArgs,
}

impl PerplexityArgs {
    /// Whether tokens are read where a checkpoint is sure.
    pub fn is_fast(&self) -> bool {
        self.exit == Some(ReadArg::Fast)
    }

    /// The early-exit flags, as generation takes them.
    pub fn exits(&self) -> ExitArgs {
        let exit = if self.is_fast() { ExitArg::Fast } else { ExitArg::Off };
        ExitArgs {
            exit: Some(exit),
            exit_file: self.exit_file.clone(),
            draft: None,
            draft_max: self.draft_max,
            kv: self.kv,
            shortlist: Switch::Off,
        }
    }
}

/// `--exit`, where distributions are read: the verified modes have full depth's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum ReadArg {
    Off,
    Fast,
}

/// `imatrix`.
#[derive(Args, Debug)]
#[command(after_help = "\
For every matrix of the layers the file holds, for each input column, the sum of the squares (and the sum) of what entered it \
while the model read the text: llama-quantize's --imatrix. Without -f the files given with --in-file are merged, and no model is \
needed.")]
pub struct ImatrixArgs {
    /// File to write
    #[arg(short, long, visible_alias = "output-file", value_name = "FILE", default_value = "imatrix.gguf")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// File whose sums are added; may be repeated
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub in_file: Vec<PathBuf>,
    /// Collect for the output head too, and for the embeddings where they are the head
    #[arg(long)]
    pub process_output: bool,
    /// Read special tokens in the text as such
    #[arg(long)]
    pub parse_special: bool,
    /// Skip the first N chunks
    #[arg(long, visible_alias = "from-chunk", value_name = "N", default_value_t = 0, value_parser = number)]
    pub chunk: usize,
    /// Write a copy every N chunks, its name ending in .at_CHUNKS; 0 for never
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number)]
    pub save_frequency: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub text: TextArgs,
}
