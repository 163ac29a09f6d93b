//! Owns `wordwrap`: Python's `textwrap` on each line.

use std::ops::Range;

use super::text::{Builder, Text};
use super::{Error, Result, meter, strings};

/// The text in lines of at most `width` characters.
pub(super) fn wrap(
    text: &Text,
    width: usize,
    breaks_words: bool,
    join: Option<&Text>,
    at_hyphens: bool,
) -> Result<Text> {
    if width == 0 {
        return Err(Error::new("invalid width 0 (must be > 0)"));
    }
    let mut out = Builder::new();
    for (i, line) in strings::lines(text.as_str(), false)?.into_iter().enumerate() {
        if i > 0 {
            push_join(&mut out, join)?;
        }
        meter::work(line.len())?;
        let pieces = pieces(&text.as_str()[line.clone()], line.start, at_hyphens);
        for (j, range) in wrapped(text.as_str(), pieces, width, breaks_words)?.into_iter().enumerate() {
            if j > 0 {
                push_join(&mut out, join)?;
            }
            out.push_part(text, range)?;
        }
    }
    out.finish()
}

fn push_join(out: &mut Builder, join: Option<&Text>) -> Result<()> {
    match join {
        Some(join) => out.push(join),
        None => out.push_str("\n"),
    }
}

/// Words and the white space between them; words with hyphens in parts.
fn pieces(line: &str, offset: usize, at_hyphens: bool) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut last: Option<char> = None;
    for (at, c) in line.char_indices() {
        let next = line[at + c.len_utf8()..].chars().next();
        let changes = last.is_some_and(|last| last.is_whitespace() != c.is_whitespace());
        if changes {
            pieces.push(offset + start..offset + at);
            start = at;
        }
        let splits = c == '-' && last.is_some_and(char::is_alphabetic) && next.is_some_and(char::is_alphabetic);
        if at_hyphens && splits {
            pieces.push(offset + start..offset + at + 1);
            start = at + 1;
            last = None;
            continue;
        }
        last = Some(c);
    }
    if start < line.len() {
        pieces.push(offset + start..offset + line.len());
    }
    pieces
}

fn wrapped(text: &str, pieces: Vec<Range<usize>>, width: usize, breaks_words: bool) -> Result<Vec<Range<usize>>> {
    let mut lines: Vec<Range<usize>> = Vec::new();
    let mut current: Option<(Range<usize>, usize)> = None;
    let is_blank = |range: &Range<usize>| text[range.clone()].trim().is_empty();
    for mut piece in pieces {
        meter::work(1)?;
        let n = text[piece.clone()].chars().count();
        let room = width - current.as_ref().map_or(0, |(_, n)| *n);
        if n <= room {
            current = match current {
                // A line but the first does not begin with white space.
                None if is_blank(&piece) && !lines.is_empty() => None,
                None => Some((piece, n)),
                Some((line, before)) => Some((line.start..piece.end, before + n)),
            };
            continue;
        }
        let mut room = room;
        let mut n = n;
        while n > width && breaks_words && !is_blank(&piece) {
            let cut = text[piece.clone()].char_indices().nth(room.max(1)).map_or(piece.end, |(at, _)| piece.start + at);
            let start = current.take().map_or(piece.start, |(line, _)| line.start);
            lines.push(trimmed(text, start..cut));
            piece = cut..piece.end;
            n = text[piece.clone()].chars().count();
            room = width;
            meter::bytes(n)?;
        }
        if let Some((line, _)) = current.take() {
            lines.push(trimmed(text, line));
        }
        current = if is_blank(&piece) || piece.is_empty() { None } else { Some((piece, n)) };
        if n > width
            && let Some((line, _)) = current.take()
        {
            lines.push(line);
        }
    }
    if let Some((line, _)) = current {
        lines.push(trimmed(text, line));
    }
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

fn trimmed(text: &str, line: Range<usize>) -> Range<usize> {
    line.start..line.start + text[line.clone()].trim_end().len()
}
