//! What may reach a terminal. Owns the rule that text of files, models, servers and file names is shown, not sent: a control
//! character among it is written out, and moves no cursor and sets no title.

use std::borrow::Cow;
use std::io::{self, IsTerminal, StdoutLock, Write};

/// A text with its control characters spelt as JSON spells them, tabs and newlines aside; so are the marks that turn the direction
/// of writing around, which make a name look like another.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    spelt(text, |c| is_control(c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// An answer for a terminal. Scripts that are written from right to left may need their marks.
pub(crate) fn answer(text: &str) -> Cow<'_, str> {
    spelt(text, is_control)
}

fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n')
}

fn spelt(text: &str, is_spelt: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_spelt) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\r' => out += "\\r",
            c if is_spelt(c) => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Standard output for tables and JSON, whose strings mean the same with their control characters spelt.
pub(crate) fn stdout() -> Shown<StdoutLock<'static>> {
    Shown { out: io::stdout().lock(), begun: Vec::new() }
}

/// Standard output for a text itself: shown at a terminal, and what it is everywhere else.
pub(crate) fn data() -> Box<dyn Write> {
    match io::stdout().is_terminal() {
        true => Box::new(stdout()),
        false => Box::new(io::stdout().lock()),
    }
}

/// Writes text on as [`shown`] has it.
pub(crate) struct Shown<W> {
    out: W,
    /// The bytes of a character that is not whole yet.
    begun: Vec<u8>,
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.begun);
        let mut rest = all.as_slice();
        loop {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(text) => (text, None),
                Err(e) => (std::str::from_utf8(&rest[..e.valid_up_to()]).unwrap_or_default(), Some(e.error_len())),
            };
            self.out.write_all(shown(valid).as_bytes())?;
            rest = &rest[valid.len()..];
            match bad {
                None => break,
                Some(None) => {
                    self.begun = rest.to_vec();
                    break;
                }
                Some(Some(n)) => {
                    rest[..n].iter().try_for_each(|byte| write!(self.out, "\\x{byte:02x}"))?;
                    rest = &rest[n..];
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(
            shown("a\tb\n\x1b]0;x\x07\r\u{9b}2J\x7f\u{202e}é"),
            "a\tb\n\\u001b]0;x\\u0007\\r\\u009b2J\\u007f\\u202eé"
        );
        assert_eq!(answer("\x1b[2J\u{2067}\u{9b}"), "\\u001b[2J\u{2067}\\u009b");
        assert!(matches!(shown("plain\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn characters_may_come_in_pieces() {
        let mut out = Shown { out: Vec::new(), begun: Vec::new() };
        for byte in "é\u{9b}€\x1b".bytes() {
            out.write_all(&[byte]).unwrap();
        }
        out.write_all(b"\xff.").unwrap();
        assert_eq!(String::from_utf8(out.out).unwrap(), "é\\u009b€\\u001b\\xff.");
    }

    #[test]
    fn json_means_the_same() {
        let text = "\x1b\u{9b}\u{202e}";
        let mut out = Shown { out: Vec::new(), begun: Vec::new() };
        serde_json::to_writer(&mut out, text).unwrap();
        assert_eq!(serde_json::from_slice::<String>(&out.out).unwrap(), text);
        assert!(out.out.is_ascii());
    }
}
