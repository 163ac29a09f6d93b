//! Reads the text of a plan, and says where it is wrong.

use std::fmt::Display;

use super::{Error, Half, MOST_ITEMS};

/// One item between commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Where it begins, in bytes.
    pub(super) at: usize,
    pub(super) what: What,
}

/// A layer and where it was named, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) il: usize,
    pub(super) at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Run { first: Layer, last: Layer, half: Option<Half>, times: usize },
    Skip { first: Layer, last: Layer, half: Option<Half> },
    Swap { a: Layer, b: Layer },
}

impl Item {
    /// Whether it says what runs, not what changes: a repetition may be either.
    pub(super) fn lists(&self) -> bool {
        matches!(self.what, What::Run { times: 1, .. } | What::Run { half: Some(_), .. })
    }
}

/// The items of a text; where it is a list of skips, each as if behind a `~`.
pub(super) fn items(text: &str, are_skips: bool) -> Result<Vec<Item>, Error> {
    let mut cursor = Cursor { text, at: 0 };
    let mut items = Vec::new();
    cursor.blanks();
    loop {
        if items.len() == MOST_ITEMS {
            return Err(error(text, cursor.at, format!("at most {MOST_ITEMS} items"), "more"));
        }
        items.push(if are_skips { cursor.skipped()? } else { cursor.item()? });
        let begins_line = cursor.blanks();
        if cursor.rest().is_empty() {
            return Ok(items);
        }
        if !cursor.take(',') && !begins_line {
            return Err(cursor.expected("`,` or the end"));
        }
        cursor.blanks();
    }
}

struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Passes blanks and comments; whether a line ended.
    fn blanks(&mut self) -> bool {
        let start = self.at;
        loop {
            let rest = self.rest();
            let comment = if rest.starts_with('#') { rest.find('\n').unwrap_or(rest.len()) } else { 0 };
            let blank = rest[comment..].len() - rest[comment..].trim_start().len();
            if comment + blank == 0 {
                return self.text[start..self.at].contains('\n');
            }
            self.at += comment + blank;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn item(&mut self) -> Result<Item, Error> {
        let at = self.at;
        if self.take('~') {
            return self.skipped().map(|item| Item { at, ..item });
        }
        if !self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.expected("a layer, `~` or a range"));
        }
        let first = self.layer()?;
        if self.take('<') {
            if !self.take('>') {
                return Err(self.expected("`>`"));
            }
            return Ok(Item { at, what: What::Swap { a: first, b: self.layer()? } });
        }
        let last = self.last(&first)?;
        let half = self.half()?;
        let times = if self.take('x') { self.times()? } else { 1 };
        Ok(Item { at, what: What::Run { first, last, half, times } })
    }

    fn skipped(&mut self) -> Result<Item, Error> {
        let at = self.at;
        let first = self.layer()?;
        let last = self.last(&first)?;
        Ok(Item { at, what: What::Skip { first, last, half: self.half()? } })
    }

    fn layer(&mut self) -> Result<Layer, Error> {
        let at = self.at;
        match self.number() {
            Some(il) => Ok(Layer { il, at }),
            None => Err(self.expected("a layer")),
        }
    }

    fn last(&mut self, first: &Layer) -> Result<Layer, Error> {
        if !self.take('-') {
            return Ok(first.clone());
        }
        let last = self.layer()?;
        if last.il < first.il {
            return Err(error(self.text, last.at, "layers in rising order", last.il));
        }
        Ok(last)
    }

    fn half(&mut self) -> Result<Option<Half>, Error> {
        if !self.take(':') {
            return Ok(None);
        }
        // `0:mlpx2`: the `x` is the repetition's.
        let word = self.word();
        let word = word.strip_suffix('x').unwrap_or(word);
        match Half::BOTH.into_iter().find(|half| word == half.name()) {
            Some(half) => {
                self.at += half.name().len();
                Ok(Some(half))
            }
            None => Err(self.expected("`attn` or `mlp`")),
        }
    }

    fn times(&mut self) -> Result<usize, Error> {
        const EXPECTED: &str = "2 or more times";
        let at = self.at;
        match self.number() {
            Some(times @ 2..) => Ok(times),
            Some(times) => Err(error(self.text, at, EXPECTED, times)),
            None => Err(self.expected(EXPECTED)),
        }
    }

    /// A number that is small enough to be one; otherwise the place stays.
    fn number(&mut self) -> Option<usize> {
        let digits = self.digits();
        let number = digits.parse().ok().filter(|n| *n < usize::MAX / 4096)?;
        self.at += digits.len();
        Some(number)
    }

    fn digits(&self) -> &'t str {
        let rest = self.rest();
        &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())]
    }

    /// The letters that follow.
    fn word(&self) -> &'t str {
        let rest = self.rest();
        &rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())]
    }

    fn expected(&self, expected: &str) -> Error {
        let word = [self.digits(), self.word()].into_iter().find(|word| !word.is_empty());
        let found = match (word, self.rest().chars().next()) {
            // Words are ASCII.
            (Some(word), _) if word.len() > LONGEST_WORD => format!("`{}...`", &word[..LONGEST_WORD]),
            (Some(word), _) => format!("`{word}`"),
            (None, None | Some('\n')) => "the end".to_owned(),
            (None, Some(c)) => format!("`{c}`"),
        };
        error(self.text, self.at, expected, found)
    }
}

/// Of a longer word the beginning is shown.
const LONGEST_WORD: usize = 40;

/// Of a longer line, so many characters before and behind what is wrong are shown.
const AROUND: usize = 60;

/// What is wrong at a byte of a text.
pub(super) fn error(text: &str, at: usize, expected: impl Display, found: impl Display) -> Error {
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let whole = text[start..].lines().next().unwrap_or("");
    let line_no = if text.trim_end().contains('\n') { text[..start].matches('\n').count() + 1 } else { 0 };
    let (line, column) = around(whole, text[start..at].chars().count());
    Error { line, line_no, column, expected: expected.to_string(), found: found.to_string() }
}

/// The part of a line around a column, and the column in it.
fn around(line: &str, column: usize) -> (String, usize) {
    if line.len() <= 3 * AROUND {
        return (line.to_owned(), column);
    }
    let first = column.saturating_sub(AROUND);
    let part: String = line.chars().skip(first).take(2 * AROUND).collect();
    let before = if first > 0 { "..." } else { "" };
    let behind = if line.chars().nth(first + 2 * AROUND).is_some() { "..." } else { "" };
    (format!("{before}{part}{behind}"), column - first + before.len())
}
