//! Owns texts with their origin: which parts are the template's own, and which somebody typed. Only the template's may
//! become special tokens. Every operation on text keeps the difference.

use std::ops::Range;
use std::rc::Rc;

use super::Result;
use super::meter::{self, Charge};

/// Bytes that a text takes besides its characters.
const OVERHEAD: usize = 112;

/// A text that does not change.
#[derive(Clone)]
pub(super) struct Text(Rc<Inner>);

struct Inner {
    text: String,
    /// What somebody typed: ascending, apart, not empty.
    typed: Vec<Range<usize>>,
    /// Whether it is marked as escaped HTML (Python's `Markup`).
    markup: bool,
    _charge: Charge,
}

impl Text {
    /// A text of the template's own.
    pub(super) fn new(text: impl Into<String>) -> Result<Text> {
        let text = text.into();
        let charge = Charge::of(text.len() + OVERHEAD)?;
        Ok(Text(Rc::new(Inner { text, typed: Vec::new(), markup: false, _charge: charge })))
    }

    /// A text that somebody typed.
    pub(super) fn typed(text: &str) -> Result<Text> {
        let mut builder = Builder::new();
        builder.push_as(text, true)?;
        builder.finish()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0.text
    }

    pub(super) fn is_same(&self, other: &Text) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_markup(&self) -> bool {
        self.0.markup
    }

    pub(super) fn has_typed(&self) -> bool {
        !self.0.typed.is_empty()
    }

    /// The parts, in order: their texts, and whether they were typed.
    pub(super) fn runs(&self) -> Vec<(&str, bool)> {
        runs(self.as_str(), &self.0.typed, 0..self.0.text.len())
    }

    /// Marked, or not, as escaped HTML.
    pub(super) fn with_markup(&self, markup: bool) -> Result<Text> {
        if self.0.markup == markup {
            return Ok(self.clone());
        }
        let mut builder = Builder::new();
        builder.push(self)?;
        builder.markup = markup;
        builder.finish()
    }

    /// A part, by bytes.
    pub(super) fn slice(&self, range: Range<usize>) -> Result<Text> {
        if range == (0..self.0.text.len()) {
            return Ok(self.clone());
        }
        let mut builder = Builder::new();
        builder.push_part(self, range)?;
        builder.markup = self.0.markup;
        builder.finish()
    }

    /// Each run changed by itself.
    pub(super) fn map_runs(&self, change: impl Fn(&str) -> String) -> Result<Text> {
        let mut builder = Builder::new();
        for (run, typed) in self.runs() {
            meter::bytes(run.len())?;
            builder.push_as(&change(run), typed)?;
        }
        builder.markup = self.0.markup;
        builder.finish()
    }

    /// A text made of this one as a whole: typed where any of this is.
    pub(super) fn derive(&self, text: &str) -> Result<Text> {
        let mut builder = Builder::new();
        builder.push_as(text, self.has_typed())?;
        builder.markup = self.0.markup;
        builder.finish()
    }

    /// Number of characters.
    pub(super) fn n_chars(&self) -> Result<usize> {
        meter::bytes(self.0.text.len())?;
        Ok(if self.0.text.is_ascii() { self.0.text.len() } else { self.0.text.chars().count() })
    }

    /// The place in bytes of a character; the end for those behind it.
    pub(super) fn byte_of(&self, char: usize) -> usize {
        let text = &self.0.text;
        if text.is_ascii() {
            return char.min(text.len());
        }
        text.char_indices().nth(char).map_or(text.len(), |(at, _)| at)
    }

    pub(super) fn into_parts(self) -> (String, Vec<Range<usize>>) {
        (self.0.text.clone(), self.0.typed.clone())
    }
}

fn runs<'t>(text: &'t str, typed: &[Range<usize>], within: Range<usize>) -> Vec<(&'t str, bool)> {
    let (mut runs, mut at) = (Vec::new(), within.start);
    for range in typed {
        let (start, end) = (range.start.max(at), range.end.min(within.end));
        if start >= end {
            continue;
        }
        if at < start {
            runs.push((&text[at..start], false));
        }
        runs.push((&text[start..end], true));
        at = end;
    }
    if at < within.end {
        runs.push((&text[at..within.end], false));
    }
    runs
}

/// A text in the making; what it takes is counted as it grows.
#[derive(Default)]
pub(super) struct Builder {
    text: String,
    typed: Vec<Range<usize>>,
    pub(super) markup: bool,
    charge: Charge,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder::default()
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds text of the template's own.
    pub(super) fn push_str(&mut self, text: &str) -> Result<()> {
        self.push_as(text, false)
    }

    pub(super) fn push_as(&mut self, text: &str, typed: bool) -> Result<()> {
        self.charge.grow(text.len())?;
        let start = self.text.len();
        self.text.push_str(text);
        if !typed || text.is_empty() {
            return Ok(());
        }
        match self.typed.last_mut() {
            Some(last) if last.end == start => last.end = self.text.len(),
            _ => {
                self.charge.grow(size_of::<Range<usize>>())?;
                self.typed.push(start..self.text.len());
            }
        }
        Ok(())
    }

    pub(super) fn push(&mut self, text: &Text) -> Result<()> {
        self.push_part(text, 0..text.as_str().len())
    }

    pub(super) fn push_part(&mut self, text: &Text, range: Range<usize>) -> Result<()> {
        meter::work(text.0.typed.len())?;
        for (run, typed) in runs(text.as_str(), &text.0.typed, range) {
            self.push_as(run, typed)?;
        }
        Ok(())
    }

    /// Adds the same text several times.
    pub(super) fn repeat(&mut self, text: &str, n: usize) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.charge.grow(text.len().saturating_mul(n))?;
        self.text.push_str(&text.repeat(n));
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Text> {
        self.charge.grow(OVERHEAD)?;
        let Builder { text, typed, markup, charge } = self;
        Ok(Text(Rc::new(Inner { text, typed, markup, _charge: charge })))
    }
}
