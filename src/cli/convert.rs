//! What `convert` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// `convert`.
#[derive(Args, Debug)]
#[command(after_help = "\
Llama, Mistral, Qwen2, Qwen3, Gemma 2 and 3, SmolLM3, Granite, OLMo 2, StarCoder2 and OPT are converted, from safetensors or from PyTorch's files. Nothing in a checkpoint is run. A checkpoint of \
llama2.c is a file instead of a folder and takes --tokenizer.")]
pub struct ConvertArgs {
    /// The folder of the checkpoint, with `config.json`, tokenizer and weights
    #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub checkpoint: PathBuf,
    /// The file to write [default: the folder's name and the type, in the current folder]
    #[arg(short, long, alias = "outfile", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// The type of large matrices; auto is bf16 for checkpoints in bf16, else f16
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = OutTypeArg::Auto)]
    pub outtype: OutTypeArg,
    /// The model's name in the file [default: what the checkpoint says]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// The rules that split text before byte-pair encoding, by the name that GGUF has for them [default: read from
    /// tokenizer.json]
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
    /// The vocabulary of a llama2.c checkpoint
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tokenizer: Option<PathBuf>,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
}

/// The types that `convert` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum OutTypeArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    Auto,
}
