//! `perplexity`: scores a text, beside stored distributions or full depth.

mod figures;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use rayon::prelude::*;

use super::shared::exits::Exits;
use super::shared::open::{engine_params, find_model, open_model, warn_of_context};
use super::shared::output::{Inputs, write_whole};
use super::shared::progress;
use super::shared::{INTERRUPTED, Usage, exits, input, interrupt, note, plan, screen};
use crate::cli::{ExitArg, ExitArgs, PerplexityArgs};
use crate::engine::{EngineParams, Sequence};
use crate::eval::{Against, BaseFile, Chunks, Moments, Page, Place, Reading, packed, score, write_header};
use crate::gguf::File;
use crate::model::{LayerStep, Model};
use crate::plan::{Depth, layers_of};
use crate::tokenizer::{Special, TokenId, Tokenizer};
use figures::Found;

/// Tokens of a chunk, where nobody says: llama.cpp's.
pub(super) const N_CTX: usize = 512;

/// Ctrl-C was pressed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

pub(super) fn run(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
    interrupt::watch();
    match measure(args) {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn measure(args: &PerplexityArgs) -> anyhow::Result<()> {
    let has_exit = args.is_fast() || !args.exit_layers.is_empty();
    let (stored, written) = match (&args.kl_divergence_base, args.kl_divergence) {
        (Some(path), true) => (Some(BaseFile::open(path, args.text.chunks.limit())?), None),
        (path, _) => (None, path.as_deref()),
    };
    ensure!(
        written.is_none() || !has_exit,
        Usage(
            "--kl-divergence-base: expected --kl-divergence beside --exit or --exit-layers; stored is full depth"
                .into()
        )
    );
    let n_ctx = chunk_size(args, stored.as_ref())?;
    let load = args.text.load(n_ctx);
    let inputs = Inputs::load(&load)?.and(&args.text.file);
    let exit_file = exits::path(args.exit_file.as_deref(), &find_model(&load.model)?).filter(|_| args.is_fast());
    let stored_at = args.kl_divergence_base.as_deref();
    let inputs = inputs.and(exit_file).and(stored_at.filter(|_| stored.is_some()));
    inputs.allow(written.into_iter().chain(args.report.as_deref()))?;
    let (file, tokenizer, model) = open_model(&find_model(&load.model)?, &load)?;
    warn_of_context(n_ctx, &model, "chunks have");
    let chunks = match &stored {
        None => Chunks::new(
            tokens(&tokenizer, args.text.file.as_deref(), Special::Plain)?,
            n_ctx,
            args.text.chunks.limit(),
        )?,
        Some(stored) => checked(stored, args, &tokenizer, &model)?,
    };
    let params = engine_params(&load.context).with_plan(plan::steps(load.layers.as_ref(), &model)?);
    let reading = reading(args, &file, &model, &params)?;
    let beside = match has_exit && stored.is_none() {
        true => Some(full_depth(args, &file, &model, &params)?),
        false => None,
    };
    let bos = tokenizer.leading_bos();
    let mut measurement = Measurement { chunks, bos, reading, beside, stored, n_vocab: model.config().n_vocab };
    let places = match written {
        None => measurement.run(None)?,
        Some(path) => {
            let mut places = Vec::new();
            write_whole(path, |out| {
                places = measurement.run(Some(out))?;
                Ok(())
            })?;
            note(format_args!("(written `{}`)", path.display()));
            places
        }
    };
    let found = measurement.found(args, places, &model, &params.plan);
    print(&found, args.json)?;
    args.report.as_deref().map_or(Ok(()), |path| report(path, &found))
}

/// Tokens of a chunk: as stored, if something is.
fn chunk_size(args: &PerplexityArgs, stored: Option<&BaseFile>) -> anyhow::Result<usize> {
    let asked = args.text.ctx_size;
    let Some(stored) = stored else { return Ok(asked.unwrap_or(N_CTX)) };
    let of_file = stored.chunks().n_ctx();
    ensure!(
        asked.is_none_or(|n| n == of_file),
        Usage(format!("-c: expected {of_file}, as stored, found {}", asked.unwrap_or(0)))
    );
    Ok(of_file)
}

fn print(found: &Found, json: bool) -> anyhow::Result<()> {
    let mut out = screen::stdout();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&found.json())?)?,
        false => found.figures().iter().try_for_each(|(name, value)| writeln!(out, "{name:<26} {value}"))?,
    }
    Ok(())
}

/// The ids of a text file (stdin without a name), behind the one that begins a text.
pub(super) fn tokens(tokenizer: &Tokenizer, file: Option<&Path>, special: Special) -> anyhow::Result<Vec<TokenId>> {
    let text = input::text(None, file, input::Kind::Corpus)?;
    Ok(tokenizer.leading_bos().into_iter().chain(tokenizer.encode(&text, special)).collect())
}

/// The stored text, once it is certain that the model can read it and that it is the one given, if one is.
fn checked(stored: &BaseFile, args: &PerplexityArgs, tokenizer: &Tokenizer, model: &Model) -> anyhow::Result<Chunks> {
    let (chunks, n_vocab) = (stored.chunks(), model.config().n_vocab);
    let path = args.kl_divergence_base.as_deref().unwrap_or(Path::new("")).display();
    ensure!(
        stored.n_vocab() == n_vocab,
        "`{path}`: n_vocab: expected {n_vocab}, the model's, found {}",
        stored.n_vocab()
    );
    if let Some(file) = &args.text.file {
        let own = tokens(tokenizer, Some(file), Special::Plain)?;
        ensure!(
            own.starts_with(chunks.tokens()),
            "`{path}`: expected the distributions of `{}`, found those of another text\n\
             hint: without -f the stored text is taken",
            file.display()
        );
    }
    Ok(chunks.clone())
}

/// What is measured.
fn reading(args: &PerplexityArgs, file: &File, model: &Arc<Model>, params: &EngineParams) -> anyhow::Result<Reading> {
    if args.is_fast() {
        return by_token(&args.exits(), file, model, params);
    }
    if args.exit_layers.is_empty() {
        return Ok(Reading::Batches(Sequence::alone(model.clone(), params.clone())?));
    }
    // Of what `--layers` leaves, where it is given: each place comes from the beginning of the plan.
    let (turns, full) = (args.exit_layers.iter().copied().map(Depth).collect::<Vec<_>>(), Depth(params.plan.len()));
    let mut depths = turns.clone();
    depths.sort_unstable();
    depths.dedup();
    let most = depths.last().copied().unwrap_or_default();
    ensure!(most <= full, Usage(format!("--exit-layers: expected at most {full}, found {most}")));
    let up_to = |depth: Depth| params.with_plan(params.plan[..depth.0].to_vec());
    let sequence = |depth: Depth| Ok((depth, Sequence::alone(model.clone(), up_to(depth))?));
    Ok(Reading::Forced { turns, sequences: depths.into_iter().map(sequence).collect::<anyhow::Result<_>>()? })
}

/// Full depth, rounded as what is measured beside it: token by token, or in batches.
fn full_depth(
    args: &PerplexityArgs,
    file: &File,
    model: &Arc<Model>,
    params: &EngineParams,
) -> anyhow::Result<Reading> {
    match args.is_fast() {
        true => by_token(&ExitArgs { exit: Some(ExitArg::Off), ..args.exits() }, file, model, params),
        false => Ok(Reading::Batches(Sequence::alone(model.clone(), params.clone())?)),
    }
}

fn by_token(exits: &ExitArgs, file: &File, model: &Arc<Model>, params: &EngineParams) -> anyhow::Result<Reading> {
    let exits = Exits::new(exits, file, model, &params.plan)?;
    let sequence = Sequence::alone(model.clone(), exits.params(params.clone()))?;
    Ok(Reading::Tokens(sequence, Box::new(exits.decoder)))
}

struct Measurement {
    chunks: Chunks,
    bos: Option<TokenId>,
    reading: Reading,
    /// Full depth, where that is what the reading is compared with.
    beside: Option<Reading>,
    stored: Option<BaseFile>,
    n_vocab: usize,
}

impl Measurement {
    /// Scores every chunk; what is read is written too, where there is a place for it.
    fn run(&mut self, mut out: Option<&mut dyn Write>) -> anyhow::Result<Vec<Place>> {
        if let Some(out) = &mut out {
            write_header(out, &self.chunks, self.n_vocab)?;
        }
        let (mut places, mut surprises) = (Vec::new(), Moments::default());
        let bar = progress::counted(self.chunks.len(), "perplexity");
        for i in 0..self.chunks.len() {
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            let of_chunk = self.chunk(i, &mut out).with_context(|| format!("chunk {i}"))?;
            let place = of_chunk.iter().position(|place| !place.compared.surprise.is_finite());
            if let Some(place) = place {
                let place = self.chunks.scored().start + place + 1;
                bail!("chunk {i}: the token after {place} has no probability: the logits are too far apart");
            }
            of_chunk.iter().for_each(|place| surprises.add(place.compared.surprise));
            places.extend(of_chunk);
            bar.set_message(format!("PPL {:.4}", surprises.perplexity().value));
            bar.inc(1);
        }
        bar.finish_and_clear();
        let mean = surprises.mean().value;
        ensure!(
            surprises.perplexity().value.is_finite(),
            "the perplexity is endless: the tokens' mean surprise is {mean}"
        );
        Ok(places)
    }

    fn chunk(&mut self, i: usize, out: &mut Option<&mut dyn Write>) -> anyhow::Result<Vec<Place>> {
        let (mut dense, mut written) = (Vec::new(), Ok(()));
        if let Some(beside) = &mut self.beside {
            let input = self.chunks.input(i, self.bos);
            beside.chunk(&input, self.chunks.scored(), &mut |_, logits| dense.extend_from_slice(logits))?;
        }
        let rows = self.stored.as_mut().map(BaseFile::next_chunk).transpose()?;
        let against = match &rows {
            Some(rows) => Against::Stored(rows),
            None if !dense.is_empty() => Against::Logits(&dense),
            None => Against::Nothing,
        };
        let n_vocab = self.n_vocab;
        let mut see = |logits: &[f32]| {
            if let (Some(out), Ok(())) = (&mut *out, &written) {
                let rows: Vec<Vec<u8>> = logits.par_chunks_exact(n_vocab).map(packed).collect();
                written = rows.iter().try_for_each(|row| out.write_all(row));
            }
        };
        let places = score(&mut self.reading, &self.chunks, i, self.bos, against, &mut see)?;
        written?;
        Ok(places)
    }

    fn found(&self, args: &PerplexityArgs, places: Vec<Place>, model: &Model, plan: &[LayerStep]) -> Found {
        let n_layer = model.config().n_layer;
        let base = match (&self.stored, &self.beside) {
            (Some(_), _) => args.kl_divergence_base.as_ref().map(|path| path.display().to_string()),
            (None, beside) => beside.as_ref().map(|_| "full depth".to_owned()),
        };
        let layers_at: Vec<f64> = (0..=plan.len()).map(|depth| layers_of(&plan[..depth], model.plan())).collect();
        let prompts = (self.chunks.len() * self.chunks.scored().start) as f64 * layers_at[plan.len()];
        let executed = args.is_fast().then(|| (self.reading.layers_executed() - prompts) / places.len() as f64);
        Found {
            model: model.config().name.clone(),
            n_ctx: self.chunks.n_ctx(),
            n_chunks: self.chunks.len(),
            n_layer,
            stops: args.is_fast() || !args.exit_layers.is_empty(),
            layers_at,
            executed,
            base,
            places,
        }
    }
}

fn report(path: &Path, found: &Found) -> anyhow::Result<()> {
    let page = Page {
        model: &found.model,
        figures: found.figures(),
        places: &found.places,
        per_chunk: found.places.len() / found.n_chunks,
        layers_at: &found.layers_at,
        n_layer: found.n_layer,
        base: found.base.as_deref(),
    };
    let page = page.html().map_err(|e| anyhow!("the report cannot be drawn: {e}"))?;
    write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))?;
    note(format_args!("(written `{}`)", path.display()));
    Ok(())
}
