//! What people type who come from llama.cpp and Ollama. Owns which of their spellings are ours under another name, and what is
//! said about the others; refuses to let a word behind one dash be read as several flags.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory, Error};

use super::Cli;

/// Spellings that mean a flag of ours, in the commands that have it; `json` means something else in most of them.
const RENAMED: [(&str, &str); 6] = [
    ("hf hfr hf-repo", HUB_MODEL),
    ("no-cnv no-conversation", "raw"),
    ("predict", "n-predict"),
    ("sp", "special"),
    ("chat-template-file", "chat-template"),
    ("ids", IDS_ALONE),
];

/// What `--json` of `tokenize` prints is what other tokenizers' `--ids` does.
const IDS_ALONE: &str = "json";

/// Its value is a model of the hub, whatever is in the current folder.
const HUB_MODEL: &str = "model";

/// Spellings that mean no flag of ours, and what to do instead.
const HINTS: &[(&str, &str)] = &[
    // Which model
    ("hf hfr hf-repo", "`curtail pull ORG/REPO` downloads a model; where a command takes -m, `-m ORG/REPO` names it"),
    ("hff hf-file", "`-m ORG/REPO/FILE.gguf` names a file of the hub"),
    ("hft hf-token", "the environment variable HF_TOKEN holds the token"),
    ("mu model-url dr docker-repo", "`curtail pull ORG/REPO` downloads a model; -m takes its path, or ORG/REPO itself"),
    ("offline", "with HF_HUB_OFFLINE=1 in the environment nothing is downloaded"),
    ("a alias", "a model has no other name here: -m names it"),
    (
        "mm mmproj mmu mmproj-url no-mmproj image audio video",
        "there are no images and no sound here, only text (-p, -f)",
    ),
    (
        "lora lora-scaled control-vector control-vector-scaled",
        "adapters are not read: merge them before `curtail convert`",
    ),
    // How it is loaded
    (
        "no-mmap mmap mmp mlock dio direct-io ndio no-direct-io numa nr no-repack repack no-host check-tensors",
        "model files are mapped and need no flag: leave it out",
    ),
    ("sm split-mode mg main-gpu", "--device names the devices, --tensor-split their shares"),
    (
        "ot override-tensor cmoe cpu-moe ncmoe n-cpu-moe nopo no-op-offload nkvo no-kv-offload kvo kv-offload",
        "whole layers are placed, with their cache: --gpu-layers says how many",
    ),
    ("fit fitt fitc fitp fit-target fit-ctx fit-print", "--gpu-layers auto, the default, takes as many layers as fit"),
    (
        "kvu kv-unified no-kv-unified swa-full ctxcp ctx-checkpoints cram cache-ram dt defrag-thold",
        "the cache has no such setting: -c is its size, -ctk and -ctv are its types",
    ),
    (
        "rope-scaling rope-scale rope-freq-base rope-freq-scale yarn-orig-ctx yarn-ext-factor yarn-attn-factor yarn-beta-slow yarn-beta-fast",
        "positions are the model file's; `curtail quantize IN OUT COPY --override-kv` writes others",
    ),
    // Threads
    ("tb threads-batch", "-t is the number of threads for prompts and answers alike"),
    (
        "cpu-mask cpu-range cpu-strict cpu-mask-batch cpu-range-batch cpu-strict-batch prio prio-batch poll poll-batch C Cr Cb Crb",
        "-t is the number of threads; `taskset` and `nice` choose processors and priority",
    ),
    ("ub ubatch-size", "-b is how many tokens of a prompt are evaluated at once"),
    // What is said
    ("sysf system-prompt-file", "--system TEXT is the system prompt, as in --system \"$(cat FILE)\""),
    ("bf binary-file", "-f reads the prompt from a file"),
    ("e escape no-escape", "texts are taken as they stand; in most shells $'a\\nb' writes a line break"),
    (
        "cnv conversation i interactive if interactive-first ins instruct mli multiline-input cml chatml",
        "`curtail chat` is a conversation, `curtail run` answers one prompt",
    ),
    ("no-cnv no-conversation", "`curtail run --raw` continues a text without the chat template"),
    ("st single-turn", "`curtail run` answers one prompt and ends"),
    (
        "in-prefix in-prefix-bos in-suffix",
        "a chat template puts what is around a turn; with `curtail run --raw` the prompt is all there is",
    ),
    ("jinja no-jinja", "the model's chat template is always used; --raw leaves it out"),
    ("sp special", "`curtail tokenize` shows special tokens"),
    (
        "keep prompt-cache prompt-cache-all prompt-cache-ro",
        "`curtail chat` keeps what was evaluated; /save and /load store it",
    ),
    ("verbose-prompt", "`curtail tokenize` shows the tokens of a prompt"),
    (
        "rea reasoning reasoning-format reasoning-budget think hidethinking",
        "what a model writes is shown as it comes: leave it out",
    ),
    (
        "context-shift no-context-shift",
        "--context-shift is for `curtail chat` and `curtail run`; without it a full context ends the answer",
    ),
    // How tokens are chosen
    (
        "mirostat mirostat-ent mirostat-lr typical typical-p xtc-probability xtc-threshold dry-multiplier dry-base dry-allowed-length \
      dry-penalty-last-n dry-sequence-breaker dynatemp-range dynatemp-exp top-nsigma top-n-sigma presence-penalty frequency-penalty samplers \
      sampler-seq sampling-seq adaptive-target adaptive-decay",
        "tokens are chosen by --temp, --top-k, --top-p, --min-p and --repeat-penalty",
    ),
    (
        "l logit-bias ignore-eos grammar grammar-file j json-schema jf json-schema-file bs backend-sampling format",
        "answers are not held to a form: --temp, --top-k, --top-p, --min-p and --repeat-penalty choose tokens, -n and -r end them",
    ),
    // Drafts
    (
        "md model-draft hfd hfrd hf-repo-draft ngld gpu-layers-draft n-gpu-layers-draft td threads-draft devd device-draft cd ctx-size-draft ctkd ctvd \
      draft-n draft-min draft-n-min draft-p-min draft-p-split spec-draft-model spec-type lcs lookup-cache-static lcd lookup-cache-dynamic otd",
        "drafts come from the model itself: --exit verified, --draft and --draft-max",
    ),
    // What is printed
    ("co color", "colours are used where there is a terminal; NO_COLOR=1 turns them off"),
    (
        "v verbose lv verbosity log-verbosity log-verbose log-disable log-enable log-file log-colors log-prefix log-timestamps no-log simple-io \
      no-display-prompt display-prompt perf no-perf show-timings no-show-timings nowordwrap ppl no-ppl progress",
        "only the answer goes to stdout, notes and speed to stderr (2>/dev/null hides them): leave it out",
    ),
    ("oe output-err", "results go to stdout, notes to stderr: `2>FILE` keeps them"),
    ("ofreq output-frequency output-format", "--save-frequency N of `curtail imatrix` writes a copy every N chunks"),
    ("show-count stdin", "`curtail tokenize` reads stdin where there is no -p; --json lists the ids, to be counted"),
    ("decode detokenize", "`curtail tokenize --decode` turns ids into text"),
    ("license copyright version-info", "-V prints the version"),
    // Measurements
    (
        "hellaswag hellaswag-tasks winogrande winogrande-tasks multiple-choice multiple-choice-tasks",
        "`curtail eval` measures tasks with short answers",
    ),
    (
        "ppl-stride ppl-output-type all-logits",
        "`curtail perplexity` measures chunks of -c tokens; `curtail logits` scores given ones",
    ),
    (
        "embd embeddings embedding pooling attention reranking rerank",
        "there are no embeddings here, only text (`curtail run`)",
    ),
    ("delay warmup", "`curtail bench` repeats every test (-r); --no-warmup leaves out the first run"),
    // A server
    (
        "host port np parallel cb cont-batching nocb no-cont-batching sps slot-prompt-similarity slots no-slots metrics props api-key api-key-file \
      ssl-key-file ssl-cert-file path api-prefix no-webui webui to timeout threads-http cache-reuse slot-save-path keepalive keep-alive insecure models-dir",
        "there is no server here: `curtail chat` and `curtail run` answer in the terminal, `curtail run --batch FILE` many prompts",
    ),
];

/// Commands of those programs, and what to do instead.
const COMMANDS: &[(&str, &str)] = &[
    (
        "serve server start stop ps launch router",
        "there is no server here: `curtail chat` and `curtail run` answer in the terminal, `curtail run --batch FILE` many prompts",
    ),
    ("cli main simple conversation", "`curtail chat` is a conversation, `curtail run` answers one prompt"),
    ("completion complete generate ask prompt batched", "`curtail run -p TEXT` answers one prompt"),
    ("detokenize decode", "`curtail tokenize --decode` turns ids into text"),
    (
        "create convert-hf-to-gguf convert_hf_to_gguf.py",
        "`curtail convert DIR` makes a GGUF file of a checkpoint, `curtail quantize` a smaller one",
    ),
    ("cp copy push", "models are files: `curtail list` shows where they are"),
    ("download fetch get", "`curtail pull ORG/REPO` downloads a model"),
    ("delete remove", "`curtail rm` removes models from the cache"),
    ("info gguf gguf-dump", "`curtail inspect` shows what a model file holds"),
    ("batched-bench", "`curtail bench` measures speed"),
    ("ppl", "`curtail perplexity` measures a text"),
    (
        "embedding tts mtmd-cli gguf-split export-lora cvector-generator",
        "that is not done here; `curtail --help` lists what is",
    ),
];

const COMMAND_FIRST: &str =
    "a command comes first, as in `curtail chat -m MODEL` or `curtail run -p TEXT`; `curtail help` lists them";

/// A command line that is not understood.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong; or help, or the version, which were asked for.
    pub error: Error,
    /// What to do instead.
    pub hint: Option<String>,
}

/// Reads the command line, in other programs' spellings too.
///
/// # Errors
/// Where it is not understood, or help was asked for.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let args: Vec<OsString> = args.into_iter().collect();
    let name = args.get(1).and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let args = normalize(args)?;
    <Cli as clap::Parser>::try_parse_from(args).map_err(|error| {
        let hint = hint_for(&error, &name);
        Refused { error, hint }
    })
}

/// The command line with other programs' spellings as clap knows them. What stands behind a flag that takes a text is left
/// alone.
fn normalize(args: Vec<OsString>) -> Result<Vec<OsString>, Refused> {
    const TAKES_TEXT: [&str; 9] =
        ["-p", "--prompt", "-sys", "--system", "--sys", "--system-prompt", "-r", "--reverse-prompt", "--stop"];
    let known = Known::of(&args);
    let mut normal = Vec::new();
    let (mut is_text, mut flags_ended, mut is_hub_model) = (false, false, false);
    for arg in args {
        let Some(word) = arg.to_str().filter(|_| !is_text && !flags_ended) else {
            normal.push(arg);
            is_text = false;
            continue;
        };
        is_text = TAKES_TEXT.contains(&word);
        flags_ended |= word == "--";
        if is_hub_model {
            normal.push(of_hub(word).into());
            is_hub_model = false;
            continue;
        }
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        match known.spelled(flag)? {
            None => normal.push(arg),
            Some(long) => {
                let is_hub = long == HUB_MODEL && !["-model", "--model"].contains(&flag);
                is_hub_model = is_hub && value.is_none();
                let value = value.map(|value| if is_hub { of_hub(value) } else { value.to_owned() });
                normal.push(value.map_or(format!("--{long}"), |value| format!("--{long}={value}")).into());
            }
        }
    }
    Ok(normal)
}

/// A name that means a model of the hub only.
fn of_hub(name: &str) -> String {
    if name.starts_with("hf.co/") { name.to_owned() } else { format!("hf.co/{name}") }
}

/// The flags of the command that is typed.
struct Known {
    command: String,
    longs: Vec<String>,
}

impl Known {
    fn of(args: &[OsString]) -> Known {
        let mut root = Cli::command();
        root.build();
        let mut command = &root;
        for name in args.iter().skip(1).take(2).filter_map(|name| name.to_str()) {
            command = command.find_subcommand(name).unwrap_or(command);
        }
        let longs = command.get_arguments().flat_map(longs_of).collect();
        Known { command: command.get_name().to_owned(), longs }
    }

    fn has(&self, long: &str) -> bool {
        self.longs.iter().any(|known| known == long)
    }

    /// The long flag that a word stands for; none where the word is clap's business.
    fn spelled(&self, flag: &str) -> Result<Option<String>, Refused> {
        let Some(word) = flag.strip_prefix('-') else { return Ok(None) };
        let (word, dashes) = word.strip_prefix('-').map_or((word, 1), |word| (word, 2));
        // `-n8`, `-n-1` and `-y` are clap's.
        let is_word = word.len() > 1 && word.starts_with(|c: char| c.is_ascii_alphabetic());
        let looks_long = is_word
            && word[1..].bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'-' | b'_' | b'0'..=b'9'))
            && !word[1..].starts_with(|c: char| c.is_ascii_digit());
        if !is_word || (dashes == 1 && !looks_long && find(HINTS, word).is_none()) {
            return Ok(None);
        }
        let long = word.replace('_', "-");
        if self.has(&long) {
            return Ok(Some(long));
        }
        let renamed =
            RENAMED.iter().find(|(names, _)| names.split(' ').any(|name| name == long)).map(|(_, ours)| *ours);
        let fits = |ours: &&str| self.has(ours) && (*ours != IDS_ALONE || self.command == "tokenize");
        if let Some(ours) = renamed.filter(fits) {
            return Ok(Some(ours.to_owned()));
        }
        if dashes == 2 {
            return Ok(None);
        }
        let hint = match find(HINTS, &long).or_else(|| find(HINTS, word)) {
            _ if self.command == Cli::command().get_name() => COMMAND_FIRST.to_owned(),
            Some(hint) => hint.to_owned(),
            None => apart(word),
        };
        let error = Error::raw(ErrorKind::UnknownArgument, format!("unexpected argument '{flag}' found\n"));
        Err(Refused { error, hint: Some(hint) })
    }
}

/// What a word behind one dash may have been meant as.
fn apart(word: &str) -> String {
    let (letter, rest) = word.split_at(1);
    format!(
        "long flags have two dashes (`--{word}`), and a value stands apart from its flag (`-{letter} {rest}`); --help lists all"
    )
}

fn longs_of(arg: &Arg) -> Vec<String> {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect()
}

fn find<'t>(table: &[(&'t str, &'t str)], word: &str) -> Option<&'t str> {
    table.iter().find(|(names, _)| names.split_whitespace().any(|name| name == word)).map(|(_, hint)| *hint)
}

/// What to do about what clap does not understand.
fn hint_for(error: &Error, command: &str) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand)?;
            let name = word.strip_prefix("llama-").unwrap_or(word);
            Some(find(COMMANDS, name).unwrap_or(COMMAND_FIRST).to_owned())
        }
        ErrorKind::UnknownArgument => {
            let word = context(ContextKind::InvalidArg)?;
            let root = Cli::command();
            let Some(command) = root.find_subcommand(command) else {
                return Some(COMMAND_FIRST.to_owned());
            };
            match word.strip_prefix('-') {
                Some(flag) => find(HINTS, flag.trim_start_matches('-')).map(str::to_owned),
                None => positional(command),
            }
        }
        // A text without its flag: words by themselves are ids.
        ErrorKind::MissingRequiredArgument if command == "tokenize" => {
            positional(Cli::command().find_subcommand(command)?)
        }
        _ => None,
    }
}

/// What a word without a dash may have been meant as.
fn positional(command: &clap::Command) -> Option<String> {
    let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
    let parts = [
        ("model", "-m MODEL names the model"),
        ("prompt", "-p TEXT gives the text, in quotes where it has spaces"),
        ("file", "-f FILE reads it from a file"),
        ("batch", "--batch FILE reads many"),
    ];
    let parts: Vec<&str> = parts.iter().filter(|(id, _)| has(id)).map(|(_, part)| *part).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
