//! What the user may type: clap types and their value checks. Owns flag names and help texts; refuses to open,
//! print or run anything.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::dtype::DType;
use crate::sample::SamplerParams;

/// Runs quantized GGUF language models.
#[derive(Debug, Parser)]
#[command(name = "curtail", version, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk with a model in the terminal
    Chat(ChatArgs),
    /// Answer one prompt, or a file of prompts
    Run(RunArgs),
    /// Show what a GGUF file holds
    Inspect(InspectArgs),
    /// Turn text into token ids, or back
    Tokenize(TokenizeArgs),
    /// Measure prompt processing and generation speed
    Bench(BenchArgs),
    /// Score given tokens: the model's choice and the log-probability at every position
    Logits(LogitsArgs),
    /// Fit when to stop on tasks with short answers
    TrainExit(TrainExitArgs),
    /// Measure an early stop on tasks with short answers, beside full depth
    Eval(EvalArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Which model file.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model file (GGUF) [default: the one in models/]
    #[arg(short, long, value_name = "FILE", env = "CURTAIL_MODEL", value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,
}

/// How a model is loaded and how much it remembers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model options")]
pub struct LoadArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Threads that compute [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub threads: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub context: ContextArgs,
}

/// The shape of the cache.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model options")]
pub struct ContextArgs {
    /// Context size in tokens; 0 takes what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = 0)]
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
    /// Flash attention: less memory at long contexts, a little less accurate [default: on where the cached values
    /// are quantized]
    #[arg(long, visible_alias = "fa", value_enum, value_name = "on|off")]
    #[arg(num_args = 0..=1, default_missing_value = "on", hide_possible_values = true)]
    pub flash_attn: Option<Switch>,
}

impl CacheArgs {
    /// Whether attention is one fused operation; quantized values cannot be read otherwise.
    pub fn wants_flash_attn(&self) -> bool {
        self.flash_attn.map_or(self.cache_type_v.is_quantized(), |switch| switch == Switch::On)
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
    /// Where verified guesses come from, always: `checkpoints`, `lookup` (what followed the same tokens before), `layer:N`
    /// (every token after N layers), `skip:LIST` (a run without some layers, as in 12-15,20:attn,22:mlp) [default: what is
    /// measured to pay]
    #[arg(long, value_name = "SOURCE", value_parser = DraftArg::from_str)]
    pub draft: Option<DraftArg>,
    /// Guesses between two evaluations at full depth, and tokens that wait for their deeper layers, at most [default: the
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
    /// A run without parts of layers.
    Skip(Vec<Skip>),
}

/// What a guessing run leaves out of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The layer.
    pub il: usize,
    /// Its attention.
    pub attention: bool,
    /// Its feed-forward network.
    pub feed_forward: bool,
}

impl FromStr for DraftArg {
    type Err = String;

    fn from_str(text: &str) -> Result<DraftArg, String> {
        match text.split_once(':') {
            None if text == "checkpoints" => Ok(DraftArg::Checkpoints),
            None if text == "lookup" => Ok(DraftArg::Lookup),
            Some(("layer", n)) => positive(n).map(DraftArg::Layer),
            Some(("skip", list)) => {
                let items: Vec<Vec<Skip>> = list.split(',').map(skips).collect::<Result<_, _>>()?;
                Ok(DraftArg::Skip(items.concat()))
            }
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
            DraftArg::Skip(skips) => {
                let skips: Vec<String> = skips.iter().map(Skip::to_string).collect();
                write!(f, "skip:{}", skips.join(","))
            }
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match (self.attention, self.feed_forward) {
            (true, false) => ":attn",
            (false, true) => ":mlp",
            _ => "",
        };
        write!(f, "{}{part}", self.il)
    }
}

/// `20`, `12-15`, `20:attn` or `12-15:mlp`.
fn skips(item: &str) -> Result<Vec<Skip>, String> {
    let (layers, part) = item.split_once(':').unwrap_or((item, ""));
    let (attention, feed_forward) = match part {
        "" => (true, true),
        "attn" => (true, false),
        "mlp" => (false, true),
        _ => return Err(format!("expected attn or mlp behind the layer, found `{part}`")),
    };
    let (first, last) = layers.split_once('-').unwrap_or((layers, layers));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("expected layers in rising order, found `{layers}`"));
    }
    Ok((first..=last).map(|il| Skip { il, attention, feed_forward }).collect())
}

fn draft_max(text: &str) -> Result<usize, String> {
    number(text).ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| "expected 1 to 64".into())
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling options")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the most probable token
    #[arg(long, visible_alias = "temperature", value_name = "X", default_value_t = 0.8)]
    #[arg(value_parser = not_negative, allow_negative_numbers = true)]
    pub temp: f32,
    /// Keep the N most probable tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 40)]
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
    #[arg(short, long = "reverse-prompt", visible_alias = "stop", value_name = "TEXT")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reverse_prompt: Vec<String>,
    /// When the context is full, forget the older half and go on
    #[arg(long)]
    pub context_shift: bool,
    /// System prompt
    #[arg(long, visible_alias = "sys", visible_alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,
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
layers that each of them took. A text is tokenized as it stands, without the chat template. No line depends on \
another.")]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["file", "batch"])]
    pub prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "batch")]
    pub file: Option<PathBuf>,
    /// Answer every line of a JSON Lines file; - is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["system", "raw", "reverse_prompt", "context_shift"])]
    pub batch: Option<PathBuf>,
    /// Continue the text itself, without the model's chat template
    #[arg(long, visible_alias = "no-chat", conflicts_with = "system")]
    pub raw: bool,
    /// Write a page that shows how deep each token went
    #[arg(long, value_name = "HTML", value_hint = ValueHint::FilePath, conflicts_with = "batch")]
    pub depth_report: Option<PathBuf>,
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

/// `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The file; -m names it too
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "model")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `tokenize`.
#[derive(Args, Debug)]
pub struct TokenizeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// The text [default: stdin]
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Leave out the token that begins a text
    #[arg(long)]
    pub no_bos: bool,
    /// Read special tokens in the text as plain text
    #[arg(long)]
    pub no_parse_special: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `logits`.
#[derive(Args, Debug)]
#[command(after_help = "\
A line {\"prompt\": [ids], \"tokens\": [ids]} gives a line {\"argmax\": [ids], \"logprob\": [x]}: at every position of \
`tokens`, fed as given, the token the model would have chosen and the natural logarithm of the probability of the \
given one.")]
pub struct LogitsArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
    /// JSON Lines file; - is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub batch: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exits: ExitArgs,
}

/// `bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Counts may be lists and ranges: 128,512 or 64-256 or 64-256+64 or 64-256*2. Every combination of -t with every test \
is run -r times after one warm-up run.")]
pub struct BenchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Prompt lengths to process; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N", default_value = "512", value_delimiter = ',')]
    pub n_prompt: Vec<Range>,
    /// Numbers of tokens to generate; 0 leaves the test out
    #[arg(short, long, value_name = "N", default_value = "128", value_delimiter = ',')]
    pub n_gen: Vec<Range>,
    /// A prompt and then a generation, timed together; may be repeated
    #[arg(long = "pg", value_name = "PP,TG", value_parser = pair)]
    pub prompt_gen: Vec<(usize, usize)>,
    /// Repetitions of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    pub repetitions: usize,
    /// Numbers of threads [default: one per physical core]
    #[arg(short, long, value_name = "N", value_delimiter = ',')]
    pub threads: Vec<Range>,
    /// Tokens of a prompt evaluated at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub batch_size: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    /// Leave out the warm-up runs
    #[arg(long)]
    pub no_warmup: bool,
    /// Form of the results
    #[arg(short, long, value_enum, default_value_t = BenchFormat::Md)]
    pub output: BenchFormat,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exits: ExitArgs,
    /// Stop generated tokens after these numbers of layers, one after the other and from the beginning again: what the
    /// engine makes of saved layers, whatever the tokens are worth
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', value_parser = positive)]
    pub exit_layers: Vec<usize>,
}

/// How `bench` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum BenchFormat {
    Md,
    Csv,
    Json,
}

/// `train-exit`.
#[derive(Args, Debug)]
#[command(after_help = "\
A task is a TOML file beside its rows (README, Tasks); `self` needs none. The file written holds a policy for each task, and the model's \
fingerprint; `eval --exit` uses it.

--preset adainfer is the paper's setting: top probability and gap over the whole vocabulary, a support vector machine, \
a look after every layer.")]
pub struct TrainExitArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
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
    /// With `self`: search also where guesses for `--exit verified` shall come from, by trying (takes minutes)
    #[arg(long)]
    pub search_drafts: bool,
    /// Solved examples in every prompt, instead of the task's number
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
    /// First layer after which stopping is considered [default: a fifth of the layers]
    #[arg(long, value_name = "LAYER", value_parser = positive)]
    pub from_layer: Option<usize>,
    /// Seed of shots and folds
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
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
pub struct EvalArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
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
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
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
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// A number of tokens, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Count {
    Limit(usize),
    All,
}

impl Count {
    /// The limit as a number: the largest for none.
    pub fn limit(self) -> usize {
        match self {
            Count::Limit(n) => n,
            Count::All => usize::MAX,
        }
    }
}

/// A seed, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub Option<u64>);

/// The numbers that `8`, `8-32`, `8-32+8` or `8-32*2` stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(pub Vec<usize>);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let Some((first, rest)) = text.split_once('-') else {
            return Ok(Range(vec![number(text)?]));
        };
        let (last, step) = split_step(rest)?;
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(format!("`{text}` ends before it begins"));
        }
        let mut values = vec![first];
        while let Some(next) = step(values[values.len() - 1]).filter(|&n| n <= last) {
            if next <= values[values.len() - 1] || values.len() == MAX_RANGE {
                return Err(format!("`{text}` never ends, or takes more than {MAX_RANGE} steps"));
            }
            values.push(next);
        }
        Ok(Range(values))
    }
}

const MAX_RANGE: usize = 1000;

type Step = Box<dyn Fn(usize) -> Option<usize>>;

fn split_step(rest: &str) -> Result<(&str, Step), String> {
    if let Some((last, by)) = rest.split_once('+') {
        let by = number(by)?;
        return Ok((last, Box::new(move |n| n.checked_add(by))));
    }
    if let Some((last, by)) = rest.split_once('*') {
        let by = number(by)?;
        return Ok((last, Box::new(move |n| n.checked_mul(by))));
    }
    Ok((rest, Box::new(|n| n.checked_add(1))))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number"))
}

fn positive(text: &str) -> Result<usize, String> {
    number(text).and_then(|n| if n > 0 { Ok(n) } else { Err("must be at least 1".into()) })
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let (prompt, generation) = text.split_once(',').ok_or("expected two numbers, as in 512,128")?;
    Ok((positive(prompt)?, positive(generation)?))
}

fn dtype(text: &str) -> Result<DType, String> {
    DType::from_name(text).ok_or_else(|| format!("`{text}` is not a tensor type (f16, q8_0 ...)"))
}

/// A number of tokens, where -1 stands for no limit.
pub fn count(text: &str) -> Result<Count, String> {
    if text == "-1" {
        return Ok(Count::All);
    }
    number(text).map(Count::Limit).map_err(|_| format!("`{text}` is neither a number of tokens nor -1"))
}

/// A seed, where -1 asks for a drawn one.
pub fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    let seed = text.parse().map_err(|_| format!("`{text}` is neither a seed (0 to 2^64 - 1) nor -1"))?;
    Ok(Seed(Some(seed)))
}

fn float(text: &str, accepts: fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && accepts(*x)).ok_or_else(|| format!("expected {expected}"))
}

/// A number from 0 up.
pub fn not_negative(text: &str) -> Result<f32, String> {
    float(text, |x| x >= 0.0, "a number from 0 up")
}

/// A number above 0.
pub fn above_zero(text: &str) -> Result<f32, String> {
    float(text, |x| x > 0.0, "a number above 0")
}

/// A number from 0 to 1.
pub fn fraction(text: &str) -> Result<f32, String> {
    float(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// llama.cpp's flags of several letters behind one dash, which clap would read as several flags.
const ONE_DASH: [&str; 5] = ["-fa", "-ctk", "-ctv", "-sys", "-pg"];

/// The command line with llama.cpp's long one-dash flags spelled as clap knows them. What stands behind a flag that
/// takes a text is left alone.
pub fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const TAKES_TEXT: [&str; 8] = ["-p", "--prompt", "-sys", "--system", "--sys", "-r", "--reverse-prompt", "--stop"];
    let mut normal = Vec::new();
    let (mut text_follows, mut flags_ended) = (false, false);
    for arg in args {
        let flag = arg.to_str().filter(|_| !text_follows && !flags_ended).unwrap_or("");
        text_follows = TAKES_TEXT.contains(&flag);
        flags_ended |= flag == "--";
        normal.push(if ONE_DASH.contains(&flag) { format!("-{flag}").into() } else { arg });
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(normalize(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_expand_as_in_llama_bench() {
        let range = |text: &str| text.parse::<Range>().map(|r| r.0);
        assert_eq!(range("8"), Ok(vec![8]));
        assert_eq!(range("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(range("64-256+64"), Ok(vec![64, 128, 192, 256]));
        assert_eq!(range("64-300*2"), Ok(vec![64, 128, 256]));
        for bad in ["", "x", "4-1", "1-4+0", "0-4*2", "1-5*1", "1-", "-1", "1-4+", "1-100000"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_dash_flags_of_llama_cpp_are_read() {
        let cli = parse("curtail chat -m x.gguf -fa off -ctk q8_0 -ctv q8_0 -sys hello -c 256 --temp 0").unwrap();
        let Command::Chat(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.load.context.cache.flash_attn, Some(Switch::Off));
        assert_eq!(args.load.context.cache.cache_type_k, DType::Q8_0);
        assert_eq!(args.generation.system.as_deref(), Some("hello"));
        assert_eq!(args.sampling.params().temperature, 0.0);
    }

    #[test]
    fn a_prompt_may_look_like_a_flag() {
        let cli = parse("curtail run -p -fa -n -1").unwrap();
        let Command::Run(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.prompt.as_deref(), Some("-fa"));
        assert_eq!(args.generation.n_predict, Some(Count::All));
    }

    #[test]
    fn values_out_of_range_are_bad_usage() {
        for bad in
            ["--temp -1", "--temp nan", "--top-p 1.5", "--min-p -0.1", "--repeat-penalty 0", "-n -2", "-s x", "-t 0"]
        {
            assert!(parse(&format!("curtail run -p hi {bad}")).is_err(), "{bad}");
        }
    }
}
