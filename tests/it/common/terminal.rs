//! A chat at a pseudo-terminal.

use std::process::Command;

use rexpect::session::{PtySession, spawn_command};

/// The prompt as it appears when input may be typed.
pub(crate) const PROMPT: &str = "> ";

/// A chat at its prompt. What it shall say is waited for no longer than so many milliseconds.
pub(crate) fn start(command: Command, patience_ms: u64) -> PtySession {
    let mut session = spawn_command(command, Some(patience_ms)).expect("it starts");
    session.exp_string("/help lists the commands").expect("a greeting");
    session.exp_string(PROMPT).expect("a prompt");
    session
}

/// Types without a line's end.
pub(crate) fn type_in(session: &mut PtySession, text: &str) {
    session.send(text).expect("typed");
    session.flush().expect("typed");
}
