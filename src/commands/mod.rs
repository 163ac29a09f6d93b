//! One file per subcommand. Commands own text, terminals and files; everything below them returns results.

mod answer;
mod bench;
mod chat;
mod inspect;
mod logits;
mod run;
mod tokenize;

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use clap::CommandFactory;
use serde::Deserialize;

use crate::cli::{Cli, Command, ModelArgs, SamplingArgs, Switch};
use crate::dtype::DType;
use crate::ggml::{self, Device};
use crate::gguf::File;
use crate::model::Model;
use crate::sample::SamplerParams;
use crate::session::{Session, SessionParams};
use crate::tokenizer::{TokenId, Tokenizer};

/// Times Ctrl-C was pressed since the last [`take_interrupt`].
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Runs a parsed command line.
pub fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let missing = ggml::missing_cpu_features();
    if !missing.is_empty() {
        bail!(
            "this binary was built for a processor with {}, which this one lacks\n\
             hint: build on this machine, or with `--features portable`",
            missing.join(", ")
        );
    }
    let mut out = io::stdout();
    match cli.command {
        Command::Chat(args) => chat::chat(args),
        Command::Run(args) => run::run(args),
        Command::Inspect(args) => inspect::inspect(&args.file, args.json, &mut out),
        Command::Bench(args) => bench::bench(args, &mut out),
        Command::Tokenize(args) => {
            let path = model_path(args.model.as_deref())?;
            tokenize::tokenize(&path, &args.prompt, !args.no_parse_special, !args.no_bos, args.json, &mut out)
        }
        Command::Logits(args) => logits::logits(args, &mut out),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "curtail", &mut out);
            Ok(())
        }
    }
}

/// From now on Ctrl-C is counted; the second one uncollected ends the process with 130.
fn catch_interrupts() -> anyhow::Result<()> {
    let handler = || {
        if INTERRUPTS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")
}

fn is_interrupted() -> bool {
    INTERRUPTS.load(Ordering::SeqCst) > 0
}

fn take_interrupt() -> bool {
    INTERRUPTS.swap(0, Ordering::SeqCst) > 0
}

/// The model file that the user means.
fn model_path(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if let Some(path) = std::env::var_os("CURTAIL_MODEL") {
        return Ok(path.into());
    }
    let entries = std::fs::read_dir("models").into_iter().flatten().flatten().map(|e| e.path());
    let models: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    match &models[..] {
        [one] => Ok(one.clone()),
        [] => bail!("no model given\nhint: `-m FILE`, or CURTAIL_MODEL, or `make model` for the demo model"),
        many => bail!("no model given, and models/ holds {} of them\nhint: choose one with `-m FILE`", many.len()),
    }
}

fn load_model(args: &ModelArgs) -> anyhow::Result<Arc<Model>> {
    let file = Arc::new(File::open(&model_path(args.model.as_deref())?)?);
    let n_threads = match args.threads {
        Some(n) => n.into(),
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    Ok(Arc::new(Model::load(file, Device::cpu(n_threads)?)?))
}

fn load_tokenizer(model: &Model) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(model.file().metadata())?;
    if let Some(notice) = tokenizer.notice() {
        eprintln!("note: {notice}");
    }
    Ok(tokenizer)
}

fn new_session(model: &Arc<Model>, args: &ModelArgs, cuts: Vec<usize>) -> anyhow::Result<Session> {
    let cache_type = |flag: &str, name: &str| {
        DType::from_name(name)
            .with_context(|| format!("`--{flag}`: expected f32, f16, bf16, q8_0 or q4_0, found `{name}`"))
    };
    let (type_k, type_v) =
        (cache_type("cache-type-k", &args.cache_type_k)?, cache_type("cache-type-v", &args.cache_type_v)?);
    let flash_attn = match args.flash_attn {
        Switch::On => true,
        Switch::Off => false,
        Switch::Auto => type_v.is_quantized(),
    };
    let n_ctx_train = model.config().n_ctx_train;
    if args.ctx_size > n_ctx_train {
        eprintln!(
            "note: a context of {} tokens is more than the {n_ctx_train} the model was trained with",
            args.ctx_size
        );
    }
    let params = SessionParams { n_ctx: args.ctx_size, n_batch: args.batch_size, type_k, type_v, flash_attn, cuts };
    Ok(Session::new(model.clone(), params)?)
}

impl From<&SamplingArgs> for SamplerParams {
    fn from(args: &SamplingArgs) -> SamplerParams {
        SamplerParams {
            temperature: args.temp,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            repeat_last_n: args.repeat_last_n,
            seed: args.seed,
        }
    }
}

/// A line of a batch file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchLine {
    prompt: Option<Vec<TokenId>>,
    text: Option<String>,
    tokens: Option<Vec<TokenId>>,
}

/// Answers every line of a JSONL file with a line of JSON.
fn each_line(
    path: &Path,
    out: &mut dyn Write,
    mut answer: impl FnMut(BatchLine) -> anyhow::Result<serde_json::Value>,
) -> anyhow::Result<()> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let place = || format!("{}:{}", path.display(), i + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let line: BatchLine = serde_json::from_str(&line).with_context(place)?;
        let reply = answer(line).with_context(place)?;
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}
