//! What the smaller commands take.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum, ValueHint};

use super::value::{pair, positive, repetitions};
use super::{CacheArgs, DeviceArgs, ExitArgs, LayersArg, LoadArgs, ModelArgs, Range};

/// `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The model, as -m names it too
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath, conflicts_with = "model")]
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
#[command(after_help = "\
--decode prints what the ids stand for, byte for byte, special tokens by their names; --no-bos leaves out the token that \
begins a text here too.")]
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
    /// Turn token ids into text: IDS, else those of -f or of stdin
    #[arg(short, long, visible_alias = "detokenize", conflicts_with_all = ["prompt", "no_parse_special"])]
    pub decode: bool,
    /// Token ids for --decode, as in 1 2 3 or `[1,2,3]`
    #[arg(value_name = "IDS", requires = "decode", conflicts_with = "file")]
    pub ids: Vec<String>,
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
    /// JSON Lines file; - is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub batch: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
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
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = repetitions)]
    pub repetitions: usize,
    /// Numbers of threads, at most as many as run at once [default: one per physical core]
    #[arg(short, long, value_name = "N", value_delimiter = ',')]
    pub threads: Vec<Range>,
    /// Tokens of a prompt evaluated at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive)]
    pub batch_size: usize,
    /// Time a plan of layers beside full depth too, by turns (`layers --help`), or @FILE; may be repeated
    #[arg(long, value_name = "PLAN", value_parser = LayersArg::from_str)]
    pub layers: Vec<LayersArg>,
    /// Tokens that are in the context before a test begins
    #[arg(short = 'd', long, value_name = "N", default_value = "0", value_delimiter = ',')]
    pub n_depth: Vec<Range>,
    /// Leave out the warm-up runs
    #[arg(long)]
    pub no_warmup: bool,
    /// Form of the results
    #[arg(short, long, value_enum, default_value_t = BenchFormat::Md)]
    pub output: BenchFormat,
    /// Stop generated tokens after these numbers of layers, one after the other and from the beginning again: what the
    /// engine makes of saved layers, whatever the tokens are worth
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', value_parser = positive)]
    #[arg(help_heading = "Early exit options")]
    pub exit_layers: Vec<usize>,
    /// Look whether to stop after each of these numbers of layers, and never do: what a look costs
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', value_parser = positive)]
    #[arg(help_heading = "Early exit options")]
    pub look_layers: Vec<usize>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub devices: DeviceArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub exits: ExitArgs,
}

/// How `bench` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum BenchFormat {
    Md,
    Csv,
    Json,
}

/// `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
