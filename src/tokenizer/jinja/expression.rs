//! Owns the grammar of expressions, with Jinja2's precedence: `~` binds tighter than `+`, a sign tighter than a filter.

use super::Result;
use super::ast::{Args, CompareOp, Expr, ExprKind, MathOp, Post, PostKind};
use super::lexer::Tok;
use super::parser::Parser;

/// Where a chain of choices without `else` ends: each is inside the next.
const CHOICES: usize = 50;

type Parse = fn(&mut Parser) -> Result<Expr>;

impl Parser {
    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.deeper(Parser::choice)
    }

    /// Expressions with commas between them are a tuple.
    pub(super) fn tuple(&mut self, with_choice: bool) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut several = false;
        loop {
            let ends = matches!(self.peek(), Tok::PrintEnd | Tok::BlockEnd | Tok::Eof)
                || self.is_op(")")
                || (!with_choice && self.is_name("recursive"));
            if ends {
                break;
            }
            items.push(if with_choice { self.expression()? } else { self.deeper(Parser::or)? });
            if !self.skip_op(",") {
                break;
            }
            several = true;
        }
        match items.pop() {
            Some(item) if !several => Ok(item),
            None => Err(self.expected("an expression")),
            last => {
                items.extend(last);
                Ok(Expr { line, kind: ExprKind::Tuple(items) })
            }
        }
    }

    fn choice(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut value = self.or()?;
        for n in 0.. {
            if !self.skip_name("if") {
                break;
            }
            if n == CHOICES {
                return Err(self.error("too many `if` in one expression"));
            }
            let test = self.or()?;
            let otherwise = if self.skip_name("else") { Some(self.deeper(Parser::choice)?) } else { None };
            value = Expr { line, kind: ExprKind::Choice(Box::new((value, test, otherwise))) };
        }
        Ok(value)
    }

    /// One operand, or several with a word between them.
    fn words(&mut self, word: &str, operand: Parse, join: fn(Vec<Expr>) -> ExprKind) -> Result<Expr> {
        let line = self.line();
        let first = operand(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name(word) {
            operands.push(operand(self)?);
        }
        Ok(Expr { line, kind: join(operands) })
    }

    fn or(&mut self) -> Result<Expr> {
        self.words("or", Parser::and, ExprKind::Or)
    }

    fn and(&mut self) -> Result<Expr> {
        self.words("and", Parser::not, ExprKind::And)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if !self.skip_name("not") {
            return self.compare();
        }
        let operand = self.deeper(Parser::not)?;
        Ok(Expr { line, kind: ExprKind::Not(Box::new(operand)) })
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(operator) = self.compare_operator() {
            rest.push((operator, self.sum()?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => Ok(Expr { line, kind: ExprKind::Compare(Box::new(first), rest) }),
        }
    }

    fn compare_operator(&mut self) -> Option<CompareOp> {
        let operator = match self.peek() {
            Tok::Op("==") => CompareOp::Eq,
            Tok::Op("!=") => CompareOp::Ne,
            Tok::Op("<") => CompareOp::Lt,
            Tok::Op("<=") => CompareOp::Le,
            Tok::Op(">") => CompareOp::Gt,
            Tok::Op(">=") => CompareOp::Ge,
            Tok::Name(name) if name == "in" => CompareOp::In,
            Tok::Name(name) if name == "not" && matches!(self.peek_second(), Tok::Name(name) if name == "in") => {
                self.next();
                CompareOp::NotIn
            }
            _ => return None,
        };
        self.next();
        Some(operator)
    }

    fn math(&mut self, operators: &[(&str, MathOp)], operand: Parse) -> Result<Expr> {
        let line = self.line();
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some(&(_, operator)) = operators.iter().find(|(text, _)| self.is_op(text)) {
            self.next();
            rest.push((operator, operand(self)?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => Ok(Expr { line, kind: ExprKind::Math(Box::new(first), rest) }),
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        self.math(&[("+", MathOp::Add), ("-", MathOp::Sub)], Parser::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_op("~") {
            operands.push(self.product()?);
        }
        Ok(Expr { line, kind: ExprKind::Concat(operands) })
    }

    fn product(&mut self) -> Result<Expr> {
        let operators = [("*", MathOp::Mul), ("/", MathOp::Div), ("//", MathOp::FloorDiv), ("%", MathOp::Mod)];
        self.math(&operators, Parser::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.math(&[("**", MathOp::Pow)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expr> {
        let line = self.line();
        let signed = self.is_op("-") || self.is_op("+");
        let value = if signed {
            let negative = self.next() == Tok::Op("-");
            let operand = self.deeper(|parser| parser.unary(false))?;
            Expr { line, kind: ExprKind::Sign(negative, Box::new(operand)) }
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        self.postfix(&mut steps)?;
        if with_filter {
            self.filters_and_tests(&mut steps)?;
        }
        Ok(with_steps(value, steps))
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.peek() {
            Tok::Name(_) | Tok::Str(_) | Tok::Int(_) | Tok::Float(_) => match self.next() {
                Tok::Name(name) => match name.as_str() {
                    "true" | "True" => ExprKind::Bool(true),
                    "false" | "False" => ExprKind::Bool(false),
                    "none" | "None" => ExprKind::None,
                    _ => {
                        self.note_use(&name);
                        ExprKind::Name(name.into())
                    }
                },
                Tok::Int(n) => ExprKind::Int(n),
                Tok::Float(x) => ExprKind::Float(x),
                first => ExprKind::Str(self.strings(first).into()),
            },
            Tok::Op("(") => return self.deeper(Parser::parentheses),
            Tok::Op("[") => {
                self.next();
                ExprKind::List(self.deeper(|parser| parser.list("]", Parser::expression))?)
            }
            Tok::Op("{") => {
                self.next();
                ExprKind::Dict(self.deeper(|parser| {
                    parser.list("}", |parser| {
                        let key = parser.expression()?;
                        parser.need_op(":")?;
                        Ok((key, parser.expression()?))
                    })
                })?)
            }
            _ => return Err(self.unexpected()),
        };
        Ok(Expr { line, kind })
    }

    /// Strings beside each other are one.
    fn strings(&mut self, first: Tok) -> String {
        let mut text = String::new();
        if let Tok::Str(part) = first {
            text.push_str(&part);
        }
        while let Tok::Str(part) = self.peek() {
            text.push_str(part);
            self.next();
        }
        text
    }

    fn parentheses(&mut self) -> Result<Expr> {
        let line = self.line();
        self.need_op("(")?;
        if self.skip_op(")") {
            return Ok(Expr { line, kind: ExprKind::Tuple(Vec::new()) });
        }
        let value = self.tuple(true)?;
        self.need_op(")")?;
        Ok(value)
    }

    /// Items with commas between them, up to `end`.
    fn list<T>(&mut self, end: &str, item: impl Fn(&mut Parser) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_op(end) {
            if !items.is_empty() {
                self.need_op(",")?;
                if self.is_op(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.need_op(end)?;
        Ok(items)
    }

    fn postfix(&mut self, steps: &mut Vec<Post>) -> Result<()> {
        loop {
            let line = self.line();
            let kind = if self.skip_op(".") {
                self.attribute()?
            } else if self.skip_op("[") {
                self.deeper(Parser::subscript)?
            } else if self.is_op("(") {
                PostKind::Call(self.deeper(Parser::arguments)?)
            } else {
                return Ok(());
            };
            steps.push(Post { line, kind });
        }
    }

    fn attribute(&mut self) -> Result<PostKind> {
        let line = self.line();
        if let Tok::Int(n) = *self.peek() {
            self.next();
            return Ok(PostKind::Item(Expr { line, kind: ExprKind::Int(n) }));
        }
        Ok(PostKind::Attribute(self.need_name()?))
    }

    fn subscript(&mut self) -> Result<PostKind> {
        let line = self.line();
        let start = if self.is_op(":") { None } else { Some(self.expression()?) };
        if !self.skip_op(":") {
            let first = start.ok_or_else(|| self.unexpected())?;
            if self.skip_op("]") {
                return Ok(PostKind::Item(first));
            }
            let mut items = vec![first];
            while self.skip_op(",") {
                items.push(self.expression()?);
            }
            self.need_op("]")?;
            return Ok(PostKind::Item(Expr { line, kind: ExprKind::Tuple(items) }));
        }
        let stop = if self.is_op(":") || self.is_op("]") { None } else { Some(self.expression()?) };
        let step = if self.skip_op(":") && !self.is_op("]") { Some(self.expression()?) } else { None };
        self.need_op("]")?;
        Ok(PostKind::Slice(Box::new([start, stop, step])))
    }

    fn arguments(&mut self) -> Result<Args> {
        self.need_op("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.is_op(")") {
            if !std::mem::take(&mut first) {
                self.need_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            let is_named = matches!(self.peek(), Tok::Name(_)) && *self.peek_second() == Tok::Op("=");
            if self.skip_op("*") && args.star.is_none() && args.star_star.is_none() {
                args.star = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") && args.star_star.is_none() {
                args.star_star = Some(Box::new(self.expression()?));
            } else if is_named && args.star_star.is_none() {
                let name = self.need_name()?;
                self.need_op("=")?;
                args.named.push((name, self.expression()?));
            } else if args.star.is_none() && args.star_star.is_none() && args.named.is_empty() {
                args.positional.push(self.expression()?);
            } else {
                return Err(self.error("invalid syntax for function call expression"));
            }
        }
        self.need_op(")")?;
        Ok(args)
    }

    fn filters_and_tests(&mut self, steps: &mut Vec<Post>) -> Result<()> {
        loop {
            let line = self.line();
            if self.skip_op("|") {
                let filter = self.filter()?;
                steps.push(filter);
            } else if self.skip_name("is") {
                let kind = self.test()?;
                steps.push(Post { line, kind });
            } else if self.is_op("(") {
                let kind = PostKind::Call(self.deeper(Parser::arguments)?);
                steps.push(Post { line, kind });
            } else {
                return Ok(());
            }
        }
    }

    /// A filter behind its bar.
    pub(super) fn filter(&mut self) -> Result<Post> {
        let line = self.line();
        let name = self.dotted_name()?;
        let args = if self.is_op("(") { self.deeper(Parser::arguments)? } else { Args::default() };
        Ok(Post { line, kind: PostKind::Filter(name, args) })
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.need_name()?.to_string();
        while self.skip_op(".") {
            name = format!("{name}.{}", self.need_name()?);
        }
        Ok(name)
    }

    /// A test behind its `is`.
    fn test(&mut self) -> Result<PostKind> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let takes_value = match self.peek() {
            Tok::Name(name) => !matches!(name.as_str(), "else" | "or" | "and"),
            Tok::Str(_) | Tok::Int(_) | Tok::Float(_) | Tok::Op("[" | "{") => true,
            _ => false,
        };
        let mut args = Args::default();
        if self.is_op("(") {
            args = self.deeper(Parser::arguments)?;
        } else if takes_value {
            if self.is_name("is") {
                return Err(self.error("tests cannot be chained with `is`"));
            }
            let value = self.deeper(Parser::primary)?;
            let mut steps = Vec::new();
            self.postfix(&mut steps)?;
            args.positional.push(with_steps(value, steps));
        }
        Ok(PostKind::Test { name, args, negated })
    }
}

fn with_steps(value: Expr, mut steps: Vec<Post>) -> Expr {
    if steps.is_empty() {
        return value;
    }
    let line = value.line;
    match value.kind {
        // Steps of steps are one list.
        ExprKind::Post(base, mut before) => {
            before.append(&mut steps);
            Expr { line, kind: ExprKind::Post(base, before) }
        }
        kind => Expr { line, kind: ExprKind::Post(Box::new(Expr { line, kind }), steps) },
    }
}
