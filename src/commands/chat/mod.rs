//! `chat`: a conversation, typed at a terminal or piped in line by line.

mod conversation;
mod depth;
mod edit;
mod repl;
mod settings;
mod slash;
mod store;
mod talk;

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;

use super::answer::End;
use super::{INTERRUPTED, chain, interrupt, is_broken_pipe, note};
use crate::cli::ChatArgs;
use repl::Next;
use talk::Talk;

pub(super) fn run(args: &ChatArgs) -> anyhow::Result<ExitCode> {
    let mut talk = Talk::new(args)?;
    interrupt::install()?;
    talk.tell_completion_mode();
    let code = if io::stdin().is_terminal() { repl::run(&mut talk) } else { piped(&mut talk) };
    note(&talk.stats);
    code
}

/// Each line is a turn or a slash command. What goes wrong with one line is said, and the next one follows.
fn piped(talk: &mut Talk<'_>) -> anyhow::Result<ExitCode> {
    for (i, line) in io::stdin().lock().lines().enumerate() {
        let place = || format!("stdin:{}", i + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        if line.starts_with('/') {
            match repl::command(talk, line.trim_end()) {
                Ok(Next::Continue) => {}
                Ok(Next::Leave) => break,
                Err(error) if is_broken_pipe(&error) => return Err(error),
                Err(error) => note(format_args!("error: {}", chain(&error.context(place())))),
            }
        } else if talk.turn(line).with_context(place)? == End::Interrupted {
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    Ok(ExitCode::SUCCESS)
}
