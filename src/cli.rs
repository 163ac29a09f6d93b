//! Owns what the user may type. Refuses to act on it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs quantized GGUF language models and stops each token at the layer where its result is decided.
#[derive(Parser)]
#[command(name = "curtail", version, arg_required_else_help = true)]
#[allow(missing_docs)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
#[allow(missing_docs)]
pub enum Command {
    /// Chat with a model
    Chat(ChatArgs),
    /// Answer one prompt, or each line of a batch file
    Run(RunArgs),
    /// Show what a model file holds
    Inspect(InspectArgs),
    /// Measure prompt and generation speed
    Bench(BenchArgs),
    /// Turn text into token ids
    Tokenize(TokenizeArgs),
    /// Score given tokens: what the model would have chosen, and their log-probabilities
    Logits(LogitsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Clone)]
#[allow(missing_docs)]
pub struct ModelArgs {
    /// Model file [default: $CURTAIL_MODEL, else the only .gguf file in models/]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Threads that compute [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Context in tokens; 0 for as many as the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub ctx_size: usize,
    /// Rows that run at once while a prompt is read
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    pub batch_size: usize,
    /// Element type of cached keys: f32, f16, bf16, q8_0, q4_0
    #[arg(long, alias = "ctk", value_name = "TYPE", default_value = "f16")]
    pub cache_type_k: String,
    /// Element type of cached values
    #[arg(long, alias = "ctv", value_name = "TYPE", default_value = "f16")]
    pub cache_type_v: String,
    /// Attention as one fused operation; `auto` is off on the CPU, where it accumulates in f16, unless the cached values
    /// are quantized
    #[arg(long, alias = "fa", value_name = "WHEN", default_value = "auto")]
    pub flash_attn: Switch,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    Auto,
    On,
    Off,
}

#[derive(Args, Clone)]
#[allow(missing_docs)]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the most probable token
    #[arg(long, alias = "temperature", value_name = "T", default_value_t = 0.8)]
    pub temp: f32,
    /// Keep the N most probable tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub top_k: usize,
    /// Keep the most probable tokens that together reach P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep tokens at least P times as probable as the most probable; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Penalty on repeated tokens; 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Tokens that the penalty looks back on
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub repeat_last_n: usize,
    /// Seed of the random choice [default: a new one each time]
    #[arg(short, long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Args)]
#[allow(missing_docs)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// System message
    #[arg(long, alias = "sys", value_name = "TEXT")]
    pub system: Option<String>,
    /// Tokens per answer at most
    #[arg(short, long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub n_predict: usize,
    /// When the context is full, forget the older half instead of stopping
    #[arg(long)]
    pub context_shift: bool,
}

#[derive(Args)]
#[allow(missing_docs)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The prompt [default: standard input]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// System message
    #[arg(long, alias = "sys", value_name = "TEXT")]
    pub system: Option<String>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    pub raw: bool,
    /// Tokens to generate at most
    #[arg(short, long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub n_predict: usize,
    /// Stop where this text appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// When the context is full, forget the older half instead of stopping
    #[arg(long)]
    pub context_shift: bool,
    /// Answer each line `{"prompt": [ids]}` or `{"text": "..."}` of a JSONL file with a line
    /// `{"tokens": [ids], "text": "...", "layers": [n]}`
    #[arg(long, value_name = "JSONL", conflicts_with_all = ["prompt", "file"])]
    pub batch: Option<PathBuf>,
}

#[derive(Args)]
#[allow(missing_docs)]
pub struct InspectArgs {
    /// Model file
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[allow(missing_docs)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt lengths, comma-separated; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_value = "512")]
    pub n_prompt: Vec<usize>,
    /// Generation lengths, comma-separated; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N,..", value_delimiter = ',', default_value = "128")]
    pub n_gen: Vec<usize>,
    /// Repetitions of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: u16,
    /// Form of the results
    #[arg(short, long, value_name = "FORM", default_value = "md")]
    pub output: Form,
    /// Cut the layers into ranges after these, comma-separated
    #[arg(long, value_name = "LAYER,..", value_delimiter = ',')]
    pub cuts: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Form {
    Md,
    Csv,
    Json,
}

#[derive(Args)]
#[allow(missing_docs)]
pub struct TokenizeArgs {
    /// Model file [default: $CURTAIL_MODEL, else the only .gguf file in models/]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: String,
    /// Do not read special tokens in the text
    #[arg(long)]
    pub no_parse_special: bool,
    /// Do not add the beginning-of-text token
    #[arg(long)]
    pub no_bos: bool,
    /// Print a JSON list of ids
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[allow(missing_docs)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Lines `{"prompt": [ids], "tokens": [ids]}`; each gives a line `{"argmax": [ids], "logprob": [x]}`
    #[arg(long, value_name = "JSONL")]
    pub batch: PathBuf,
}
