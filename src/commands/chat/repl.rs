//! The read-eval-print loop at a terminal: inputs in, turns and slash commands carried out. What it says about
//! itself goes to stderr; only answers go to stdout.

use std::path::Path;
use std::process::ExitCode;

use super::conversation::Conversation;
use super::depth;
use super::edit::{Input, Prompt, wants_colour};
use super::slash::{self, Slash, Topic};
use super::store;
use super::talk::Talk;
use crate::cli::ExitArg;
use crate::commands::shared::answer::End;
use crate::commands::shared::exits;
use crate::commands::shared::open::Opened;
use crate::commands::shared::output::Inputs;
use crate::commands::shared::stats::Stats;
use crate::commands::shared::{INTERRUPTED, chain, coloured_note, is_broken_pipe, note};
use crate::sample::Sampler;

/// Whether the conversation goes on.
#[derive(PartialEq)]
pub(super) enum Next {
    Continue,
    Leave,
}

pub(super) fn run(talk: &mut Talk<'_>) -> anyhow::Result<ExitCode> {
    let mut prompt = Prompt::new()?;
    greet(talk);
    let mut hinted = false;
    loop {
        let input = prompt.read()?;
        let interrupted = input == Input::Interrupt;
        let next = match input {
            Input::End => return Ok(ExitCode::SUCCESS),
            Input::Interrupt if hinted => return Ok(ExitCode::from(INTERRUPTED)),
            Input::Interrupt => {
                note("(Ctrl-D or /exit leaves, Ctrl-C once more too)");
                Ok(Next::Continue)
            }
            Input::Text(text) if text.is_empty() => Ok(Next::Continue),
            Input::Text(text) => talk.during(|talk| talk.turn(text)).map(|_| Next::Continue),
            Input::Command(line) => talk.during(|talk| command(talk, &line)),
            Input::Unreadable => {
                note("(a byte that is no UTF-8: the line is not read)");
                Ok(Next::Continue)
            }
        };
        hinted = interrupted;
        match next {
            Ok(Next::Continue) => {}
            Ok(Next::Leave) => return Ok(ExitCode::SUCCESS),
            Err(error) if is_broken_pipe(&error) => return Err(error),
            // A failed turn or command does not end the conversation.
            Err(error) => note(format_args!("error: {}", chain(&error))),
        }
    }
}

fn greet(talk: &Talk<'_>) {
    note(info(talk));
    note("/help lists the commands, Ctrl-D leaves");
}

/// Carries out a slash command.
pub(super) fn command(talk: &mut Talk<'_>, line: &str) -> anyhow::Result<Next> {
    match Slash::parse(line).map_err(anyhow::Error::msg)? {
        Slash::Help => note(slash::help()),
        Slash::System(system) => set_system(talk, system)?,
        Slash::Set(None) => note(talk.settings.list(talk.sampler.seed())),
        Slash::Set(Some((name, value))) => set(talk, &name, &value)?,
        Slash::Show(topic) => show(talk, topic),
        Slash::Clear => clear(talk),
        Slash::Undo => undo(talk),
        Slash::Regen => regenerate(talk)?,
        Slash::Save(path) => save(talk, &path)?,
        Slash::Load(path) => load(talk, &path)?,
        Slash::Stats => show_stats(talk),
        Slash::ExitMode(mode) => set_exit_mode(talk, mode)?,
        Slash::Depth(on) => set_depth(talk, on),
        Slash::Exit => return Ok(Next::Leave),
    }
    Ok(Next::Continue)
}

fn set_system(talk: &mut Talk<'_>, system: Option<String>) -> anyhow::Result<()> {
    anyhow::ensure!(talk.template.is_some(), "the model has no chat template, so a system prompt has no place");
    note(if system.is_some() { "(system prompt set)" } else { "(system prompt removed)" });
    talk.conversation.set_system(system);
    Ok(())
}

fn set(talk: &mut Talk<'_>, name: &str, value: &str) -> anyhow::Result<()> {
    talk.settings.set(name, value).map_err(anyhow::Error::msg)?;
    talk.sampler = Sampler::new(talk.settings.sampling.params());
    note(format_args!("({name} = {value})"));
    Ok(())
}

fn show(talk: &Talk<'_>, topic: Topic) {
    match topic {
        Topic::Info => note(info(talk)),
        Topic::Parameters => note(talk.settings.list(talk.sampler.seed())),
        Topic::System => note(talk.conversation.system().unwrap_or("(no system prompt)")),
        Topic::Template => match &talk.template {
            Some(template) => note(template.source()),
            None => note("(no chat template: completion mode)"),
        },
    }
}

fn info(talk: &Talk<'_>) -> String {
    let sequence = &talk.engine.sequence;
    let (config, file) = (sequence.model().config(), &talk.engine.file);
    let name = if config.name.is_empty() { file.path().display().to_string() } else { config.name.clone() };
    format!(
        "{name}: {}, {} layers, {:.0} MB, context {} of {} tokens used",
        config.architecture,
        config.n_layer,
        file.file_bytes() as f64 / 1e6,
        sequence.tokens().len(),
        sequence.n_ctx()
    )
}

fn clear(talk: &mut Talk<'_>) {
    talk.conversation = Conversation::new(talk.conversation.system().map(String::from));
    talk.engine.sequence.rewind(0);
    note("(forgotten)");
}

fn undo(talk: &mut Talk<'_>) {
    note(if talk.conversation.undo() { "(taken back)" } else { "(nothing was said yet)" });
}

fn regenerate(talk: &mut Talk<'_>) -> anyhow::Result<()> {
    if !talk.conversation.pop_answer() {
        note("(nothing was said yet)");
        return Ok(());
    }
    talk.answer().map(|_: End| ())
}

fn save(talk: &Talk<'_>, path: &Path) -> anyhow::Result<()> {
    let model = talk.engine.file.path();
    let exit_file = exits::path(talk.args.exits.exit_file.as_deref(), model);
    let inputs = Inputs::model(model).and(exit_file).and_layers(&talk.args.load.layers);
    let (conversation, state) = store::save(path, &inputs, &talk.conversation, &talk.engine.sequence)?;
    note(format_args!("(saved `{}` and `{}`)", conversation.display(), state.display()));
    Ok(())
}

fn load(talk: &mut Talk<'_>, path: &Path) -> anyhow::Result<()> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return change_model(talk, path);
    }
    let loaded = store::load(path, &mut talk.engine.sequence)?;
    talk.conversation = loaded.conversation;
    let messages = talk.conversation.messages().len();
    match loaded.state_problem {
        None => note(format_args!("(loaded {messages} messages, {} tokens)", talk.engine.sequence.tokens().len())),
        Some(problem) => {
            note(format_args!("(loaded {messages} messages; the next turn evaluates them again: {problem})"));
        }
    }
    Ok(())
}

fn change_model(talk: &mut Talk<'_>, path: &Path) -> anyhow::Result<()> {
    let (engine, decoder) = Opened::load(path, &talk.args.load, &talk.args.exits)?;
    let template = engine.template(&talk.args.generation.template)?;
    talk.decoder = decoder;
    talk.set_template(template);
    talk.engine = engine;
    talk.conversation.forget_tokens();
    // Layers of two models have no common mean.
    note(&talk.stats);
    talk.stats = Stats::new(talk.engine.sequence.model().config().n_layer);
    note(info(talk));
    talk.tell_completion_mode();
    Ok(())
}

fn set_exit_mode(talk: &mut Talk<'_>, mode: Option<ExitArg>) -> anyhow::Result<()> {
    let decoder = &mut talk.decoder;
    if let Some(mode) = mode {
        let mode = exits::mode(mode, talk.args.exits.draft.is_some().then_some(decoder.source()));
        anyhow::ensure!(!exits::needs_checkpoints(mode) || decoder.has_checkpoints(), exits::NEEDS);
        decoder.set_mode(mode);
    }
    note(format_args!("exit mode: {}", decoder.mode().name()));
    Ok(())
}

fn set_depth(talk: &mut Talk<'_>, on: bool) {
    // Codes are for terminals that show them.
    if on && !wants_colour() {
        note("(no colour here: NO_COLOR is set, or the answers do not go to a terminal)");
        return;
    }
    talk.shows_depth = on;
    match on {
        true => coloured_note(&depth::legend(talk.engine.sequence.model().config().n_layer)),
        false => note("(depth is not shown)"),
    }
}

fn show_stats(talk: &Talk<'_>) {
    let sequence = &talk.engine.sequence;
    note(&talk.stats);
    if talk.decoder.tally().drafted > 0 {
        note(talk.decoder.tally());
    }
    let histogram = talk.stats.histogram();
    if !histogram.is_empty() {
        note(histogram);
    }
    note(format_args!(
        "context {} of {} tokens, {} prompt tokens reused",
        sequence.tokens().len(),
        sequence.n_ctx(),
        talk.stats.reused_tokens()
    ));
}
