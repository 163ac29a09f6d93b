//! `chat`: a conversation, typed at a terminal or piped in line by line.

mod conversation;
mod depth;
mod edit;
mod keep;
#[cfg(unix)]
mod keyboard;
mod repl;
mod settings;
mod slash;
mod store;
mod talk;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;

use super::shared::answer::{CannotWrite, End};
use super::shared::{INTERRUPTED, chain, interrupt, is_broken_pipe, note};
use crate::cli::ChatArgs;
use crate::text;
use repl::Next;
use talk::Talk;

pub(super) fn run(args: &ChatArgs) -> anyhow::Result<ExitCode> {
    let mut talk = Talk::new(args)?;
    interrupt::watch();
    talk.tell_completion_mode();
    let code = if io::stdin().is_terminal() { repl::run(&mut talk) } else { piped(&mut talk) };
    note(&talk.stats);
    code
}

/// Each line is a turn or a slash command. What goes wrong with one line is said, and the next one follows; the exit code tells.
fn piped(talk: &mut Talk<'_>) -> anyhow::Result<ExitCode> {
    let mut lines = text::lines(io::stdin().lock(), text::PROMPT_BYTES);
    let mut code = ExitCode::SUCCESS;
    for i in 1.. {
        let place = || format!("stdin:{i}");
        let Some(line) = interrupt::while_waiting(|| lines.next_lossy()) else { break };
        let (line, problem) = line.with_context(place)?;
        if let Some(problem) = problem {
            note(format_args!("note: {}: {problem}, read as U+FFFD", place()));
        }
        match talk.during(|talk| carry_out(talk, line)) {
            Ok(Next::Continue) => {}
            Ok(Next::Leave) => break,
            Err(error) if error.is::<Interrupted>() => return Ok(ExitCode::from(INTERRUPTED)),
            // Nobody is there for the others either.
            Err(error) if is_broken_pipe(&error) || error.is::<CannotWrite>() => return Err(error.context(place())),
            Err(error) => {
                note(format_args!("error: {}", chain(&error.context(place()))));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn carry_out(talk: &mut Talk<'_>, line: String) -> anyhow::Result<Next> {
    match line.starts_with('/') {
        true => repl::command(talk, line.trim_end()),
        false if line.trim().is_empty() => Ok(Next::Continue),
        false if talk.turn(line)? == End::Interrupted => Err(Interrupted.into()),
        false => Ok(Next::Continue),
    }
}

/// Ctrl-C in an answer.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;
