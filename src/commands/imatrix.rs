//! `imatrix`: collects what enters each weight matrix while the model reads a text, or merges such files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use rayon::prelude::*;
use serde_json::json;

use super::perplexity::{Interrupted, N_CTX, tokens};
use super::shared::open::{engine_params, find_model, open_model, warn_of_context};
use super::shared::output::Inputs;
use super::shared::progress;
use super::shared::{INTERRUPTED, Usage, interrupt, note, plan, print_line};
use crate::cli::ImatrixArgs;
use crate::engine::Sequence;
use crate::eval::{Chunks, Estimate, Imatrix, Moments, surprise};
use crate::gguf;
use crate::tokenizer::{Special, TokenId};

pub(super) fn run(args: &ImatrixArgs) -> anyhow::Result<ExitCode> {
    interrupt::watch();
    let reads = args.text.file.is_some() || args.in_file.is_empty();
    let inputs = read_by(args, reads)?;
    inputs.allow([args.output.as_path()])?;
    let mut before = Imatrix { chunk_size: args.text.ctx_size.unwrap_or(0), ..Imatrix::default() };
    for path in &args.in_file {
        before.merge(Imatrix::open(path)?, path)?;
    }
    let (imatrix, ppl) = match reads.then(|| collect(args, &before, &inputs)).transpose() {
        Err(error) if error.is::<Interrupted>() => return Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => return Err(error),
        Ok(None) => (before, None),
        Ok(Some((imatrix, ppl))) => (imatrix, Some(ppl)),
    };
    imatrix.save(&args.output)?;
    note(format_args!("(written `{}`)", args.output.display()));
    tell(args, &imatrix, ppl)?;
    Ok(ExitCode::SUCCESS)
}

/// The files that are read, those of the model only where it reads a text.
fn read_by(args: &ImatrixArgs, reads: bool) -> anyhow::Result<Inputs> {
    let inputs = Inputs::default().and(&args.in_file).and(&args.text.file).and_layers(&args.text.layers);
    if !reads {
        return Ok(inputs);
    }
    Ok(inputs.and(gguf::part_paths(&find_model(&args.text.model)?)))
}

/// What the text adds to the files before it, and its perplexity.
fn collect(args: &ImatrixArgs, before: &Imatrix, inputs: &Inputs) -> anyhow::Result<(Imatrix, Estimate)> {
    let n_ctx = args.text.ctx_size.unwrap_or(N_CTX);
    let devices = &args.text.devices;
    ensure!(
        devices.rpc.is_empty() && devices.device.iter().all(|name| name == "none") && !devices.wants_layers(),
        Usage("imatrix observes what runs on the CPU: no other device can be named".into())
    );
    let mut load = args.text.load(n_ctx);
    load.devices.device = vec!["none".into()];
    let (_file, tokenizer, model) = open_model(&find_model(&load.model)?, &load)?;
    warn_of_context(n_ctx, &model, "chunks have");
    let special = if args.parse_special { Special::Parse } else { Special::Plain };
    let mut tokens = tokens(&tokenizer, args.text.file.as_deref(), special)?;
    let skipped = args.chunk.saturating_mul(n_ctx);
    ensure!(
        skipped < tokens.len(),
        Usage(format!("--chunk: expected fewer than {} chunks, found {}", tokens.len().div_ceil(n_ctx), args.chunk))
    );
    tokens.drain(..skipped);
    let chunks = Chunks::new(tokens, n_ctx, args.text.chunks.limit())?;
    let params = engine_params(&load.context).with_plan(plan::steps(load.layers.as_ref(), &model)?);
    let mut sequence = Sequence::alone(model, params)?;
    sequence.engine().observe();
    let (mut surprises, bos) = (Moments::default(), tokenizer.leading_bos());
    let so_far = |sequence: &Sequence| -> anyhow::Result<Imatrix> {
        let mut all = before.clone();
        let dataset = args.text.file.as_deref().unwrap_or(Path::new("-")).display().to_string();
        let observed = sequence.engine().inputs().expect("the sequence observes");
        let own = Imatrix::of(&observed, n_ctx, dataset, args.process_output);
        all.chunk_size = n_ctx;
        all.merge(own, Path::new("this run"))?;
        Ok(all)
    };
    let bar = progress::counted(chunks.len(), "imatrix");
    for i in 0..chunks.len() {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        read(&mut sequence, &chunks, i, bos, &mut surprises).with_context(|| format!("chunk {i}"))?;
        bar.set_message(format!("imatrix, PPL {:.4}", surprises.perplexity().value));
        bar.inc(1);
        if args.save_frequency > 0 && (i + 1).is_multiple_of(args.save_frequency) {
            let copy = copy(&args.output, i + 1);
            inputs.allow([copy.as_path()])?;
            so_far(&sequence)?.save(&copy)?;
        }
    }
    bar.finish_and_clear();
    Ok((so_far(&sequence)?, surprises.perplexity()))
}

/// Takes a chunk through the model, every token to the end: what is summed up are all tokens, what is scored the second half.
fn read(
    sequence: &mut Sequence,
    chunks: &Chunks,
    i: usize,
    bos: Option<TokenId>,
    surprises: &mut Moments,
) -> anyhow::Result<()> {
    let (scored, targets) = (chunks.scored(), chunks.targets(i));
    let all: Vec<usize> = (0..chunks.n_ctx()).collect();
    sequence.read(&chunks.input(i, bos), &all, &mut |places, logits| {
        let rows = places.par_iter().zip(logits.par_chunks_exact(logits.len() / places.len()));
        let rows = rows.filter(|(place, _)| scored.contains(place));
        let found: Vec<f64> = rows.map(|(place, row)| surprise(row, targets[place - scored.start])).collect();
        found.into_iter().for_each(|x| surprises.add(x));
    })?;
    Ok(())
}

/// `imatrix.gguf.at_10` for `imatrix.gguf`.
fn copy(path: &Path, n_chunks: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".at_{n_chunks}"));
    name.into()
}

fn tell(args: &ImatrixArgs, imatrix: &Imatrix, ppl: Option<Estimate>) -> anyhow::Result<()> {
    if args.json {
        let found = json!({
            "output": args.output.display().to_string(),
            "n_matrices": imatrix.entries.len(),
            "n_chunks": imatrix.n_chunks(),
            "chunk_size": imatrix.chunk_size,
            "datasets": imatrix.datasets,
            "ppl": ppl,
        });
        return Ok(print_line(&serde_json::to_string_pretty(&found)?)?);
    }
    let of_text = ppl.map_or(String::new(), |ppl| format!(", PPL {:.4} ± {:.4}", ppl.value, ppl.error));
    let (n, size) = (imatrix.n_chunks(), imatrix.chunk_size);
    Ok(print_line(&format!("{} matrices, {n} chunks of {size} tokens{of_text}", imatrix.entries.len()))?)
}
