//! `run`: one prompt, or a file of prompts, without a conversation.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shared::answer::{self, Answer, End, Finder, Limits};
use super::shared::depth::numbers;
use super::shared::open::{Opened, find_model, note_no_template};
use super::shared::output::{Inputs, write_whole};
use super::shared::stats::Stats;
use super::shared::{INTERRUPTED, batch, exits, input, interrupt, note, print_line, screen, template};
use crate::cli::{Count, RunArgs};
use crate::engine::Sequence;
use crate::eval::Depths;
use crate::generate::Decoder;
use crate::plan::Depth;
use crate::sample::Sampler;
use crate::tokenizer::{ChatTemplate, Message, Special, TokenId, Tokenizer};

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    match &args.batch {
        Some(path) => run_batch(args, path),
        None => run_one(args),
    }
}

fn run_one(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let exit_file = exits::path(args.exits.exit_file.as_deref(), &find_model(&args.load.model)?);
    let inputs = Inputs::load(&args.load)?.and(&args.file).and(exit_file);
    inputs.allow(args.depth_report.as_deref())?;
    let text = input::text(args.prompt.as_deref(), args.file.as_deref(), input::Kind::Prompt)?;
    let (mut engine, mut decoder) = Opened::load(&find_model(&args.load.model)?, &args.load, &args.exits)?;
    let template = if args.raw { None } else { engine.template(&args.generation.template)? };
    if template.is_none() && !args.raw {
        note_no_template(&args.generation.template);
    }
    let tokens = encode(&engine.tokenizer, template.as_ref(), args.generation.system.as_deref(), &text)?;
    interrupt::watch();
    let mut stats = Stats::new(engine.sequence.model().config().n_layer);
    let starts = if template.is_some() { Starts::Answer } else { Starts::Continuation };
    let end = answer_one(&mut engine, &mut decoder, args, &tokens, starts, &mut stats)?;
    note(&stats);
    tell_drafts(&decoder);
    Ok(ExitCode::from(if end == End::Interrupted { INTERRUPTED } else { 0 }))
}

/// Writes the page of an answer to these tokens: evaluates it once more, to see all layers.
fn write_depths(path: &Path, engine: &mut Opened, prompt: &[TokenId], answer: &Answer) -> anyhow::Result<()> {
    let Opened { sequence, tokenizer, .. } = engine;
    let whole = [prompt, &answer.tokens].concat();
    ensure!(whole.len() <= sequence.n_ctx(), "--depth-report: prompt and answer no longer fit into the context");
    let mut stream = tokenizer.stream();
    let tokens = answer.tokens.iter().zip(&answer.layers).map(|(&token, &layers)| (stream.push(token), layers));
    let tokens = tokens.collect();
    let confidence = match answer.tokens.split_last() {
        // What a token was chosen from is what the one before it had.
        Some(_) => {
            let part = whole[prompt.len() - 1..whole.len() - 1].to_vec();
            crate::eval::confidence(sequence, (prompt[..prompt.len() - 1].to_vec(), part))?
        }
        None => Vec::new(),
    };
    let after = (1..=sequence.n_steps()).map(|depth| sequence.layers_at(Depth(depth))).collect();
    let n_layer = sequence.model().config().n_layer;
    let page = Depths { tokens, confidence, after, n_layer }.html(&sequence.model().config().name);
    let page = page.map_err(|e| anyhow!("the page cannot be drawn: {e}"))?;
    write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))?;
    note(format_args!("(written `{}`)", path.display()));
    Ok(())
}

/// What the generated text is: decides whether its first space is part of it.
enum Starts {
    Answer,
    Continuation,
}

fn answer_one(
    engine: &mut Opened,
    decoder: &mut Decoder,
    args: &RunArgs,
    tokens: &[TokenId],
    starts: Starts,
    stats: &mut Stats,
) -> anyhow::Result<End> {
    let Opened { sequence, tokenizer, .. } = engine;
    let (n_ctx, may_grow) = (sequence.n_ctx(), sequence.may_grow());
    check_length(tokens, sequence)?;
    if answer::prompt(sequence, tokens, stats)? {
        return Ok(End::Interrupted);
    }
    let limits = Limits {
        n_predict: limit(args),
        stop: &args.generation.reverse_prompt,
        shift: args.generation.context_shift.then_some(usize::from(tokenizer.bos() == tokens.first().copied())),
    };
    let stream = match starts {
        Starts::Answer => tokenizer.stream(),
        Starts::Continuation => tokenizer.stream_after(tokens),
    };
    let stream = stream.with_special(args.generation.special);
    let mut stdout = io::stdout().lock();
    let is_terminal = stdout.is_terminal();
    let mut show = |text: &str, _: f64| {
        match is_terminal {
            true => stdout.write_all(screen::answer(text).as_bytes())?,
            false => stdout.write_all(text.as_bytes())?,
        }
        stdout.flush()
    };
    let mut sampler = Sampler::new(args.sampling.params());
    let finder = Finder { sequence, decoder, sampler: &mut sampler, stats };
    let answer = answer::generate(finder, tokenizer, stream, &limits, &mut show)?;
    // The text ends with a newline, whether or not the model wrote one.
    if !answer.text.ends_with('\n') {
        show("\n", 0.0)?;
    }
    drop(stdout);
    if let Some(path) = &args.depth_report {
        write_depths(path, engine, tokens, &answer)?;
    }
    if answer.end == End::ContextFull {
        note(format_args!("stopped: the context of {n_ctx} tokens is full"));
        let larger = if may_grow { "-c makes it larger, " } else { "" };
        note(format_args!("hint: {larger}--context-shift forgets the older half and goes on"));
    }
    Ok(answer.end)
}

fn tell_drafts(decoder: &Decoder) {
    let tally = decoder.tally();
    if tally.drafted > 0 {
        note(tally);
    }
}

fn limit(args: &RunArgs) -> usize {
    args.generation.n_predict.unwrap_or(Count::All).limit()
}

fn check_length(tokens: &[TokenId], sequence: &Sequence) -> anyhow::Result<()> {
    let n_ctx = sequence.n_ctx();
    let hint = if sequence.may_grow() { "\nhint: -c makes it larger" } else { "" };
    ensure!(!tokens.is_empty(), "the prompt is empty");
    ensure!(tokens.len() <= n_ctx, "the prompt has {} tokens, the context only {n_ctx}{hint}", tokens.len());
    Ok(())
}

fn encode(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    system: Option<&str>,
    text: &str,
) -> anyhow::Result<Vec<TokenId>> {
    let Some(template) = template else {
        ensure!(system.is_none(), "the model has no chat template, so a system prompt has no place");
        return Ok(tokenizer.encode_with_bos(text, Special::Parse));
    };
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let mut messages: Vec<_> = system.iter().map(|system| message("system", system)).collect();
    messages.push(message("user", text));
    let rendered = template::render(template, &messages)?;
    template::dropped_system(system, &rendered).iter().for_each(note);
    Ok(tokenizer.encode_rendered_with_bos(&rendered))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    prompt: Option<Vec<TokenId>>,
    text: Option<String>,
}

#[derive(Serialize)]
struct Response<'a> {
    tokens: &'a [TokenId],
    text: &'a str,
    layers: Vec<Value>,
}

fn run_batch(args: &RunArgs, path: &Path) -> anyhow::Result<ExitCode> {
    let (mut engine, mut decoder) = Opened::load(&find_model(&args.load.model)?, &args.load, &args.exits)?;
    interrupt::watch();
    let mut stats = Stats::new(engine.sequence.model().config().n_layer);
    let mut interrupted = false;
    batch::for_each(path, |request: Request| {
        interrupted = answer_line(&mut engine, &mut decoder, args, request, &mut stats)? == End::Interrupted;
        Ok(if interrupted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    note(&stats);
    tell_drafts(&decoder);
    Ok(ExitCode::from(if interrupted { INTERRUPTED } else { 0 }))
}

/// Answers one line. Each has a sampler of its own and begins with an empty cache, whose rows would have been rounded
/// in other batches: no line's answer depends on another line.
fn answer_line(
    engine: &mut Opened,
    decoder: &mut Decoder,
    args: &RunArgs,
    request: Request,
    stats: &mut Stats,
) -> anyhow::Result<End> {
    let tokens = match (request.prompt, request.text) {
        (Some(ids), None) => ids,
        (None, Some(text)) => engine.tokenizer.encode_with_bos(&text, Special::Parse),
        _ => bail!("expected one of `prompt` and `text`"),
    };
    batch::check_ids("prompt", &tokens, engine.sequence.model().config().n_vocab)?;
    let Opened { sequence, tokenizer, .. } = engine;
    check_length(&tokens, sequence)?;
    sequence.rewind(0);
    if answer::prompt(sequence, &tokens, stats)? {
        return Ok(End::Interrupted);
    }
    let limits = Limits { n_predict: limit(args), ..Limits::default() };
    let mut sampler = Sampler::new(args.sampling.params());
    let stream = tokenizer.stream_after(&tokens).with_special(args.generation.special);
    let finder = Finder { sequence, decoder, sampler: &mut sampler, stats };
    let answer = answer::generate(finder, tokenizer, stream, &limits, &mut |_, _| Ok(()))?;
    // A cut answer is no result.
    if answer.end != End::Interrupted {
        let response = Response { tokens: &answer.tokens, text: &answer.text, layers: numbers(&answer.layers) };
        print_line(&serde_json::to_string(&response)?)?;
    }
    Ok(answer.end)
}
