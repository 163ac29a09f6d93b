//! What `chat` and `run` take.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::value::{above_zero, count, fraction, not_negative, number, seed};
use super::{Count, ExitArgs, LoadArgs, Seed};
use crate::sample::SamplerParams;

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling options")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the most probable token
    #[arg(long, visible_alias = "temperature", value_name = "X", default_value_t = 0.8)]
    #[arg(value_parser = not_negative, allow_negative_numbers = true)]
    pub temp: f32,
    /// Keep the N most probable tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = number)]
    pub top_k: usize,
    /// Keep the smallest set of tokens with this total probability; 1 keeps all
    #[arg(long, value_name = "X", default_value_t = 0.95, value_parser = fraction, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the best; 0 keeps all
    #[arg(long, value_name = "X", default_value_t = 0.05, value_parser = fraction, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Penalty on tokens of the recent text; 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = above_zero, allow_negative_numbers = true)]
    pub repeat_penalty: f32,
    /// How many tokens the penalty looks back; 0 is none, -1 all
    #[arg(long, value_name = "N", default_value = "64", value_parser = count, allow_negative_numbers = true)]
    pub repeat_last_n: Count,
    /// Seed of the random numbers; the same seed gives the same text; -1 draws one
    #[arg(short, long, value_name = "N", default_value = "-1", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Seed,
}

impl SamplingArgs {
    /// The parameters that the flags spell.
    pub fn params(&self) -> SamplerParams {
        SamplerParams {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.limit(),
            seed: self.seed.0,
        }
    }
}

/// When a generation ends.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Generation options")]
pub struct GenerationArgs {
    /// Tokens to generate at most; -1 is until the model ends or the context is full
    #[arg(short, long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub n_predict: Option<Count>,
    /// Stop where the model writes TEXT, which is not printed; may be repeated
    #[arg(short, long = "reverse-prompt", visible_alias = "stop", value_name = "TEXT", allow_hyphen_values = true)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reverse_prompt: Vec<String>,
    /// When the context is full, forget the older half and go on
    #[arg(long)]
    pub context_shift: bool,
    /// Show special tokens too, such as the one that ends the answer
    #[arg(long, visible_alias = "sp")]
    pub special: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: TemplateArgs,
    /// System prompt
    #[arg(
        long,
        visible_alias = "sys",
        visible_alias = "system-prompt",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub system: Option<String>,
}

/// Which chat template.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Generation options")]
pub struct TemplateArgs {
    /// Chat template instead of the model's: a name (chatml, llama3, gemma ...), a Jinja FILE, or none to continue plain text
    #[arg(long, visible_alias = "chat-template-file", value_name = "NAME|FILE|none", value_hint = ValueHint::FilePath)]
    pub chat_template: Option<String>,
}

/// `chat`.
#[derive(Args, Debug)]
#[command(after_help = "Type /help inside. Without a terminal on stdin each line is a turn.")]
#[allow(missing_docs)]
pub struct ChatArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub exits: ExitArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without -p and -f the prompt is read from stdin. A model that brings a chat template gets the prompt as a user's \
turn; --raw, or a model without a template, continues the text itself. The answer goes to stdout, one line of \
statistics to stderr.

--batch reads a line {\"prompt\": [token ids]} or {\"text\": \"...\"} per generation and prints a line {\"tokens\": \
[...], \"text\": \"...\", \"layers\": [...]} for it: the tokens up to and with the one that ended the text, and the \
layers that each of them needed. A text is tokenized as it stands, without the chat template. No line depends on \
another.")]
pub struct RunArgs {
    /// The prompt
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["file", "batch"])]
    pub prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "batch")]
    pub file: Option<PathBuf>,
    /// Answer every line of a JSON Lines file; - is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["system", "raw", "reverse_prompt", "context_shift", "chat_template"])]
    pub batch: Option<PathBuf>,
    /// Continue the text itself, without the model's chat template
    #[arg(long, visible_alias = "no-chat", conflicts_with_all = ["system", "chat_template"])]
    pub raw: bool,
    /// Write a page that shows how deep each token went
    #[arg(long, value_name = "HTML", value_hint = ValueHint::FilePath, conflicts_with = "batch")]
    pub depth_report: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exits: ExitArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
}
