//! Owns the grammar of statements. Refuses what Jinja2 refuses, and what is nested deeper than any template is.

use std::sync::Arc;

use super::ast::{Args, Body, Expr, ExprKind, For, Macro, Post, Stmt, StmtKind, Target, Uses};
use super::lexer::{Tok, Token};
use super::{Error, Result};

/// Statements and parentheses inside each other. Python's parser ends below a hundred.
const DEPTH: usize = 150;

/// Goes through the tokens.
pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Loops around this place, within the innermost macro.
    loops: usize,
    /// What the macros around this place use, the innermost last.
    uses: Vec<Uses>,
}

impl Parser {
    pub(super) fn new(tokens: Vec<Token>) -> Parser {
        Parser { tokens, at: 0, depth: 0, loops: 0, uses: Vec::new() }
    }

    /// The whole template.
    pub(super) fn template(mut self) -> Result<Body> {
        let body = self.body(&[])?;
        match self.peek() {
            Tok::Eof => Ok(body),
            _ => Err(self.unexpected()),
        }
    }

    /// One expression and nothing else.
    #[cfg(feature = "tasks")]
    pub(super) fn single_expression(mut self) -> Result<Expr> {
        let value = self.expression()?;
        match self.peek() {
            Tok::Eof => Ok(value),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn peek(&self) -> &Tok {
        &self.tokens[self.at].kind
    }

    pub(super) fn peek_second(&self) -> &Tok {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    /// The token here; goes on.
    pub(super) fn next(&mut self) -> Tok {
        let last = self.tokens.len() - 1;
        let here = self.at;
        self.at = (here + 1).min(last);
        // The end is read again and again, everything else once.
        if here == last { Tok::Eof } else { std::mem::replace(&mut self.tokens[here].kind, Tok::Eof) }
    }

    pub(super) fn is_op(&self, operator: &str) -> bool {
        matches!(self.peek(), Tok::Op(found) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Tok::Name(found) if found == name)
    }

    pub(super) fn skip_op(&mut self, operator: &str) -> bool {
        let found = self.is_op(operator);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn need_op(&mut self, operator: &str) -> Result<()> {
        if self.skip_op(operator) { Ok(()) } else { Err(self.expected(&format!("'{operator}'"))) }
    }

    pub(super) fn need_name(&mut self) -> Result<Arc<str>> {
        match self.peek() {
            Tok::Name(_) => match self.next() {
                Tok::Name(name) => Ok(name.into()),
                _ => Err(self.unexpected()),
            },
            _ => Err(self.expected("a name")),
        }
    }

    fn need_word(&mut self, word: &str) -> Result<()> {
        if self.skip_name(word) { Ok(()) } else { Err(self.expected(&format!("'{word}'"))) }
    }

    fn need(&mut self, token: &Tok, what: &str) -> Result<()> {
        if self.peek() == token {
            self.next();
            return Ok(());
        }
        Err(self.expected(what))
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::new(message).at(self.line())
    }

    pub(super) fn expected(&self, what: &str) -> Error {
        self.error(format!("expected {what}, found {}", describe(self.peek())))
    }

    pub(super) fn unexpected(&self) -> Error {
        self.error(format!("unexpected {}", describe(self.peek())))
    }

    /// Parses something one level deeper.
    pub(super) fn deeper<T>(&mut self, parse: impl FnOnce(&mut Parser) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH {
            return Err(self.error(format!("it is nested deeper than {DEPTH} levels")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Notes a name that is read.
    pub(super) fn note_use(&mut self, name: &str) {
        for uses in &mut self.uses {
            uses.caller |= name == "caller";
            uses.kwargs |= name == "kwargs";
            uses.varargs |= name == "varargs";
        }
    }

    /// Statements up to a tag with one of these names, which is not read; without names, up to the end.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        self.deeper(|parser| {
            let mut body = Body::new();
            loop {
                let line = parser.line();
                let kind = match parser.peek() {
                    Tok::Eof if ends.is_empty() => return Ok(body),
                    Tok::Eof => {
                        return Err(
                            parser.error(format!("unexpected end of template, expected `{}`", ends.join("` or `")))
                        );
                    }
                    Tok::Data(_) => match parser.next() {
                        Tok::Data(text) => StmtKind::Data(text),
                        _ => continue,
                    },
                    Tok::PrintBegin => {
                        parser.next();
                        let value = parser.tuple(true)?;
                        parser.need(&Tok::PrintEnd, "'}}'")?;
                        StmtKind::Print(value)
                    }
                    Tok::BlockBegin => {
                        parser.next();
                        if matches!(parser.peek(), Tok::Name(name) if ends.contains(&name.as_str())) {
                            return Ok(body);
                        }
                        let kind = parser.statement(ends)?;
                        parser.need(&Tok::BlockEnd, "'%}'")?;
                        kind
                    }
                    _ => return Err(parser.unexpected()),
                };
                body.push(Stmt { line, kind });
            }
        })
    }

    /// The end of this tag, a body, and the name that ended it.
    fn block(&mut self, ends: &[&str]) -> Result<(Body, Arc<str>)> {
        self.skip_op(":");
        self.need(&Tok::BlockEnd, "'%}'")?;
        let body = self.body(ends)?;
        Ok((body, self.need_name()?))
    }

    fn statement(&mut self, ends: &[&str]) -> Result<StmtKind> {
        let name = self.need_name()?;
        match &*name {
            "if" => self.if_(),
            "for" => self.for_(),
            "set" => self.set(),
            "macro" => self.macro_(),
            "call" => self.call(),
            "filter" => {
                let filters = self.inline_filters()?;
                Ok(StmtKind::Filter(filters, self.block(&["endfilter"])?.0))
            }
            "with" => self.with(),
            "block" => self.named_block(),
            "generation" => Ok(StmtKind::Scope(self.apart(|parser| Ok(parser.block(&["endgeneration"])?.0))?)),
            "autoescape" => self.autoescape(),
            "print" => self.print(),
            "break" | "continue" if self.loops == 0 => Err(self.error(format!("`{name}` outside of a loop"))),
            "break" => Ok(StmtKind::Break),
            "continue" => Ok(StmtKind::Continue),
            "include" | "import" | "from" | "extends" => self.other_template(),
            _ if ends.is_empty() => Err(self.error(format!("unknown tag `{name}`"))),
            _ => Err(self.error(format!("unknown tag `{name}`, expected `{}`", ends.join("` or `")))),
        }
    }

    /// Something that no loop around it reaches into.
    fn apart<T>(&mut self, parse: impl FnOnce(&mut Parser) -> Result<T>) -> Result<T> {
        let loops = std::mem::take(&mut self.loops);
        let parsed = parse(self);
        self.loops = loops;
        parsed
    }

    fn if_(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false)?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match &*end {
                "elif" => {}
                "else" => return Ok(StmtKind::If(branches, self.block(&["endif"])?.0)),
                _ => return Ok(StmtKind::If(branches, Body::new())),
            }
        }
    }

    fn for_(&mut self) -> Result<StmtKind> {
        let line = self.line();
        let target = self.target(false)?;
        self.need_word("in")?;
        let iter = self.tuple(false)?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let block = self.block(&["endfor", "else"]);
        self.loops -= 1;
        let (body, end) = block?;
        let otherwise = if &*end == "else" { self.block(&["endfor"])?.0 } else { Body::new() };
        Ok(StmtKind::For(Arc::new(For { line, target, iter, test, recursive, body, otherwise })))
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple(true)?));
        }
        let filters = if self.skip_op("|") { self.inline_filters()? } else { Vec::new() };
        Ok(StmtKind::SetBlock(target, filters, self.apart(|parser| Ok(parser.block(&["endset"])?.0))?))
    }

    /// What may be assigned to, one or several.
    fn target(&mut self, with_namespace: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut several = false;
        loop {
            targets.push(self.one_target(with_namespace)?);
            if !self.skip_op(",") {
                break;
            }
            several = true;
            if self.is_name("in") || self.is_op("=") || self.is_op(")") || *self.peek() == Tok::BlockEnd {
                break;
            }
        }
        match targets.pop() {
            Some(target) if !several => Ok(target),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn one_target(&mut self, with_namespace: bool) -> Result<Target> {
        if self.skip_op("(") {
            let target = self.deeper(|parser| parser.target(with_namespace))?;
            self.need_op(")")?;
            return Ok(target);
        }
        let name = self.need_name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(self.error(format!("can't assign to `{name}`")));
        }
        if with_namespace && self.skip_op(".") {
            self.note_use(&name);
            return Ok(Target::Attribute(name, self.need_name()?));
        }
        Ok(Target::Name(name))
    }

    fn signature(&mut self) -> Result<Vec<(Arc<str>, Option<Expr>)>> {
        self.need_op("(")?;
        let mut params: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.is_op(")") {
            if !params.is_empty() {
                self.need_op(",")?;
            }
            let name = self.need_name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && params.last().is_some_and(|(_, default)| default.is_some()) {
                return Err(self.error("non-default argument follows default argument"));
            }
            params.push((name, default));
        }
        self.need_op(")")?;
        Ok(params)
    }

    /// A body with parameters, and which of Jinja's own it uses.
    fn macro_body(
        &mut self,
        name: Option<Arc<str>>,
        params: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Result<Arc<Macro>> {
        self.uses.push(Uses::default());
        let body = self.apart(|parser| parser.block(&[end]));
        let uses = self.uses.pop().unwrap_or_default();
        Ok(Arc::new(Macro { name, params, body: body?.0, uses }))
    }

    fn macro_(&mut self) -> Result<StmtKind> {
        let name = self.need_name()?;
        let params = self.signature()?;
        Ok(StmtKind::Macro(self.macro_body(Some(name), params, "endmacro")?))
    }

    fn call(&mut self) -> Result<StmtKind> {
        let params = if self.is_op("(") { self.signature()? } else { Vec::new() };
        let call = self.expression()?;
        let is_call = matches!(&call.kind, ExprKind::Post(_, steps) if matches!(steps.last(), Some(Post { kind: super::ast::PostKind::Call(_), .. })));
        if !is_call {
            return Err(self.error("expected a call"));
        }
        Ok(StmtKind::Call(call, self.macro_body(None, params, "endcall")?))
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while *self.peek() != Tok::BlockEnd && !self.is_op(":") {
            if !values.is_empty() {
                self.need_op(",")?;
            }
            let target = self.one_target(false)?;
            self.need_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StmtKind::With(values, self.block(&["endwith"])?.0))
    }

    fn named_block(&mut self) -> Result<StmtKind> {
        let name = self.need_name()?;
        self.skip_name("scoped");
        self.skip_name("required");
        let body = self.apart(|parser| Ok(parser.block(&["endblock"])?.0))?;
        self.skip_name(&name);
        Ok(StmtKind::Block(body))
    }

    fn autoescape(&mut self) -> Result<StmtKind> {
        let on = self.expression()?;
        let body = self.block(&["endautoescape"])?.0;
        match on.kind {
            ExprKind::Bool(false) => Ok(StmtKind::Scope(body)),
            _ => Err(self.error("`autoescape`: a prompt is no HTML, expected `false`")),
        }
    }

    fn print(&mut self) -> Result<StmtKind> {
        let line = self.line();
        let mut values = Vec::new();
        while *self.peek() != Tok::BlockEnd {
            if !values.is_empty() {
                self.need_op(",")?;
            }
            values.push(self.expression()?);
        }
        let value = Expr { line, kind: ExprKind::Concat(values) };
        Ok(StmtKind::Print(value))
    }

    /// A tag that needs another template is an error where it is reached.
    fn other_template(&mut self) -> Result<StmtKind> {
        while !matches!(self.peek(), Tok::BlockEnd | Tok::Eof) {
            self.next();
        }
        Ok(StmtKind::Refuse("there are no other templates to include, import or extend"))
    }

    /// Filters without a value before them: of `filter` and `set` blocks.
    fn inline_filters(&mut self) -> Result<Vec<Post>> {
        let mut filters = vec![self.filter()?];
        while self.skip_op("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }
}

/// What an error calls a token.
fn describe(token: &Tok) -> String {
    match token {
        Tok::Data(_) => "template text".to_owned(),
        Tok::PrintBegin => "'{{'".to_owned(),
        Tok::PrintEnd => "'}}'".to_owned(),
        Tok::BlockBegin => "'{%'".to_owned(),
        Tok::BlockEnd => "'%}'".to_owned(),
        Tok::Name(name) => format!("'{name}'"),
        Tok::Str(_) => "a string".to_owned(),
        Tok::Int(n) => n.to_string(),
        Tok::Float(x) => x.to_string(),
        Tok::Op(operator) => format!("'{operator}'"),
        Tok::Eof => "end of template".to_owned(),
    }
}

impl Args {
    pub(super) fn is_empty(&self) -> bool {
        self.positional.is_empty() && self.named.is_empty() && self.star.is_none() && self.star_star.is_none()
    }
}
