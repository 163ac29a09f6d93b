//! Owns templates: Jinja2 as transformers runs it for chat templates, byte for byte, and within bounds. A template comes
//! with a file that somebody else made: depth, work, memory and time of parsing and rendering are limited, on a thread
//! whose stack is known, and nothing of it reaches beyond the text it renders.
//!
//! Not here: HTML escaping by default, other templates to include or extend, `lipsum` and `urlize`, whole numbers beyond
//! 64 bits.

mod access;
mod args;
mod ast;
mod eval;
mod expression;
mod filters;
mod format;
mod json;
mod lexer;
mod markup;
mod meter;
mod methods;
mod names;
mod number;
mod ops;
mod parser;
mod predicates;
mod repr;
#[cfg(feature = "tasks")]
mod rows;
mod sequences;
mod strings;
mod text;
mod value;
mod wrap;

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

pub(crate) use lexer::Whitespace;
pub(crate) use meter::on_deep_stack;
#[cfg(feature = "tasks")]
pub(crate) use rows::{Expression, fields};

use eval::Run;
use parser::Parser;
use text::{Builder, Text};
use value::{Dict, Scope, Value};

type Result<T> = std::result::Result<T, Error>;

/// Why a template is none, or gives no text.
#[derive(Debug)]
pub(crate) struct Error(Box<(String, Option<u32>)>);

impl Error {
    fn new(message: impl Into<String>) -> Error {
        Error(Box::new((message.into(), None)))
    }

    /// With the line, unless it has one that is closer to the fault.
    fn at(mut self, line: u32) -> Error {
        self.0.1.get_or_insert(line);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.0)?;
        self.0.1.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// Bytes of a template at most; the largest of real models have 30 thousand.
const MAX_SOURCE: usize = 1 << 20;

/// What a template is given.
pub(crate) enum Data<'d> {
    /// Nothing.
    None,
    /// A truth value.
    Bool(bool),
    /// A text of the template's side, such as a role or a special token.
    Own(&'d str),
    /// A text that somebody typed.
    Typed(&'d str),
    /// Whatever a row of a data set holds.
    #[cfg(feature = "tasks")]
    Json(&'d serde_json::Value),
    /// Several.
    List(Vec<Data<'d>>),
    /// Several by name.
    Dict(Vec<(&'d str, Data<'d>)>),
}

impl Data<'_> {
    fn value(&self) -> Result<Value> {
        meter::work(1)?;
        match self {
            Data::None => Ok(Value::None),
            Data::Bool(b) => Ok(Value::Bool(*b)),
            Data::Own(text) => Value::text(*text),
            Data::Typed(text) => Ok(Value::Str(Text::typed(text)?)),
            #[cfg(feature = "tasks")]
            Data::Json(json) => rows::from_json(json),
            Data::List(items) => Value::list(items.iter().map(Data::value).collect::<Result<_>>()?),
            Data::Dict(entries) => {
                let mut dict = Dict::empty();
                for (key, value) in entries {
                    dict.insert(Value::text(*key)?, value.value()?)?;
                }
                Ok(dict.into_value())
            }
        }
    }
}

/// A rendered text that knows which parts of it somebody typed: those are never special tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    typed: Vec<Range<usize>>,
}

impl Rendered {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text from a byte on.
    pub fn after(&self, at: usize) -> Rendered {
        let typed = self.typed.iter().filter(|range| range.end > at);
        let typed = typed.map(|range| range.start.max(at) - at..range.end - at).collect();
        Rendered { text: self.text[at..].to_owned(), typed }
    }

    /// The parts in order: their texts, and whether they were typed.
    pub(super) fn runs(&self) -> impl Iterator<Item = (&str, bool)> {
        let ends = self.typed.iter().flat_map(|range| [range.start, range.end]).chain([self.text.len()]);
        let runs = ends.scan((0, false), |(at, typed), end| {
            let run = (&self.text[*at..end], *typed);
            (*at, *typed) = (end, !*typed);
            Some(run)
        });
        runs.filter(|(run, _)| !run.is_empty())
    }
}

/// A text that is all the program's own.
impl std::convert::From<String> for Rendered {
    fn from(text: String) -> Rendered {
        Rendered { text, typed: Vec::new() }
    }
}

/// A parsed template.
pub(crate) struct Template {
    body: ast::Body,
    strict: bool,
}

impl Template {
    /// Parses a template; where it is `strict`, a value that is missing is an error.
    pub(crate) fn parse(source: &str, whitespace: Whitespace, strict: bool) -> Result<Template> {
        check_size(source)?;
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = source.strip_suffix('\n').unwrap_or(&source);
        let body = on_deep_stack(|| Parser::new(lexer::tokens(source, whitespace, false)?).template())??;
        Ok(Template { body, strict })
    }

    /// The text for these values.
    pub(crate) fn render(&self, values: &[(&str, Data<'_>)]) -> Result<Rendered> {
        on_deep_stack(|| {
            run(values, self.strict, |run, root| {
                let mut out = Builder::new();
                run.body(&self.body, root, &mut out)?;
                let (text, typed) = out.finish()?.into_parts();
                Ok(Rendered { text, typed })
            })
        })?
    }
}

fn check_size(source: &str) -> Result<()> {
    if source.len() > MAX_SOURCE {
        return Err(Error::new(format!("it has {} bytes, expected at most {MAX_SOURCE}", source.len())));
    }
    Ok(())
}

/// Makes the values, runs something with them, and takes apart what holds itself.
fn run<T>(values: &[(&str, Data<'_>)], strict: bool, go: impl FnOnce(&Run, &Rc<Scope>) -> Result<T>) -> Result<T> {
    meter::start();
    let made = || {
        let names = values.iter().map(|(name, value)| Ok(((*name).into(), value.value()?)));
        let names = RefCell::new(names.collect::<Result<_>>()?);
        let root = Rc::new(Scope { names, outer: None });
        go(&Run { root: Rc::clone(&root), strict }, &root)
    };
    let done = made();
    value::forget_objects();
    done
}

#[cfg(test)]
mod tests;
