//! What commands share: what is opened, said, written and asked in the same way by several of them.

pub(crate) mod answer;
pub(crate) mod batch;
pub(crate) mod columns;
pub(crate) mod depth;
pub(crate) mod devices;
pub(crate) mod exits;
pub(crate) mod hub_model;
pub(crate) mod input;
pub(crate) mod interrupt;
pub(crate) mod open;
pub(crate) mod output;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod screen;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod template;

use std::fmt;
use std::io::{self, Write};

/// The exit code of a command that was interrupted: 128 + SIGINT, as a shell reports it.
pub(crate) const INTERRUPTED: u8 = 130;

/// The command cannot be carried out as it was typed: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whether an error is that nobody reads what is written.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let of_json = || cause.downcast_ref::<serde_json::Error>()?.io_error_kind();
        cause.downcast_ref::<io::Error>().map(io::Error::kind).or_else(of_json)
    };
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

/// The whole chain of an error on one line, hints on lines of their own behind it.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let (mut text, mut hints) = (String::new(), String::new());
    for cause in error.chain().map(ToString::to_string) {
        let (cause, hint) = cause.split_once("\nhint: ").unwrap_or((&cause, ""));
        // Some errors end with the text of their cause.
        if !text.ends_with(cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += cause;
        }
        if !hint.is_empty() && !hints.contains(hint) {
            hints = format!("{hints}\nhint: {hint}");
        }
    }
    text + &hints
}

/// Writes one line of results and hands it on at once.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = screen::stdout();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes a line for the user's eyes, not for data. What a file or a model says in it is shown, not sent.
pub(crate) fn note(line: impl fmt::Display) {
    coloured_note(&screen::shown(&line.to_string()));
}

/// As [`note`], for a line that is this program's own and may have colours.
pub(crate) fn coloured_note(line: &str) {
    // A full or closed stderr is no reason to lose the answer.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A number with so many digits behind the point. What rounds to zero has no sign.
pub(crate) fn rounded(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|b| matches!(b, b'0' | b'.')) => zero.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_thing_once_and_ends_with_hints() {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error =
            anyhow::Error::from(missing()).context("cannot open `x`: no such file").context("line 3\nhint: look");
        assert_eq!(chain(&error), "line 3: cannot open `x`: no such file\nhint: look");
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!([rounded(-4e-8, 6), rounded(-0.0, 3), rounded(-0.5, 0)], ["0.000000", "0.000", "0"]);
        assert_eq!([rounded(-6e-7, 6), rounded(4e-8, 6), rounded(-1.0, 1)], ["-0.000001", "0.000000", "-1.0"]);
        assert_eq!(rounded(f64::NEG_INFINITY, 2), "-inf");
    }
}
