//! Owns the tokens of a template: text and code told apart, white space taken off as the tags say.

use super::{Error, Result};

/// A token with its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) line: u32,
    pub(super) kind: Tok,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i64),
    Float(f64),
    Op(&'static str),
    Eof,
}

/// Which white space around blocks is no text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Whitespace {
    /// The newline after a block.
    pub(crate) trim_blocks: bool,
    /// Blanks before a block that begins a line.
    pub(crate) lstrip_blocks: bool,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// What Python takes for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The tokens of a source whose line ends are `\n`, or of one expression.
pub(super) fn tokens(source: &str, whitespace: Whitespace, is_expression: bool) -> Result<Vec<Token>> {
    let mut lexer = Lexer { source, whitespace, at: 0, line: 1, tokens: Vec::new(), line_starting: true };
    match is_expression {
        true => lexer.code(None)?,
        false => while lexer.text()? {},
    }
    lexer.push(Tok::Eof);
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    whitespace: Whitespace,
    at: usize,
    line: u32,
    tokens: Vec<Token>,
    /// Whether a line begins here.
    line_starting: bool,
}

/// What begins at a brace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Print,
    Block,
    Comment,
}

impl<'s> Lexer<'s> {
    fn push(&mut self, kind: Tok) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    /// Goes on by `n` bytes.
    fn skip(&mut self, n: usize) {
        let passed = &self.source[self.at..self.at + n];
        self.line += passed.bytes().filter(|&b| b == b'\n').count() as u32;
        self.line_starting = passed.ends_with('\n');
        self.at += n;
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(message).at(self.line)
    }

    /// Text up to the next tag, and the tag. False at the end.
    fn text(&mut self) -> Result<bool> {
        let rest = self.rest();
        let Some((at, tag)) = next_tag(rest) else {
            self.data(rest.to_owned(), rest.len());
            return Ok(false);
        };
        let sign = rest[at + 2..].chars().next().filter(|&c| c == '-' || c == '+');
        let text = self.without_space(&rest[..at], tag, sign).to_owned();
        self.data(text, at);
        self.skip(2 + usize::from(sign.is_some()));
        match tag {
            Tag::Comment => self.comment()?,
            Tag::Block => match self.raw_begin() {
                Some(n) => self.raw(n)?,
                None => {
                    self.push(Tok::BlockBegin);
                    self.code(Some(Tag::Block))?;
                }
            },
            Tag::Print => {
                self.push(Tok::PrintBegin);
                self.code(Some(Tag::Print))?;
            }
        }
        Ok(true)
    }

    fn data(&mut self, text: String, n: usize) {
        if !text.is_empty() {
            self.push(Tok::Data(text));
        }
        // An empty text does not end a line that begins here.
        if n > 0 {
            self.skip(n);
        }
    }

    /// The text before a tag without what the tag takes off.
    fn without_space<'t>(&self, text: &'t str, tag: Tag, sign: Option<char>) -> &'t str {
        if sign == Some('-') {
            return text.trim_end_matches(is_space);
        }
        let line = text.rfind('\n').map_or(0, |at| at + 1);
        let begins_line = line > 0 || self.line_starting;
        let strips = self.whitespace.lstrip_blocks && tag != Tag::Print && sign.is_none();
        if strips && begins_line && text[line..].chars().all(is_space) { &text[..line] } else { text }
    }

    /// The length of `raw %}` here, if that is what stands here.
    fn raw_begin(&self) -> Option<usize> {
        let rest = self.rest();
        let after = rest.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
        let end = match after.strip_prefix("-%}") {
            Some(end) => end.trim_start_matches(is_space),
            None => after.strip_prefix("%}")?,
        };
        Some(rest.len() - end.len())
    }

    fn raw(&mut self, n: usize) -> Result<()> {
        self.skip(n);
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest[from..].find("{%") {
            let at = from + found;
            let sign = rest[at + 2..].chars().next().filter(|&c| c == '-' || c == '+');
            let name = rest[at + 2 + usize::from(sign.is_some())..].trim_start_matches(is_space);
            let end = name.strip_prefix("endraw").map(|end| end.trim_start_matches(is_space));
            if let Some(n) = end.and_then(|end| self.end_of_tag(end, "%}", true)) {
                let text = self.without_space(&rest[..at], Tag::Block, sign).to_owned();
                let end = rest.len() - end.unwrap_or("").len() + n;
                self.data(text, at);
                self.skip(end - at);
                return Ok(());
            }
            from = at + 2;
        }
        Err(self.error("missing end of raw directive"))
    }

    /// The length of the end of a tag with the white space that it takes, if it stands at the beginning of `text`.
    fn end_of_tag(&self, text: &str, end: &str, may_trim: bool) -> Option<usize> {
        if let Some(rest) = text.strip_prefix('-').and_then(|rest| rest.strip_prefix(end)) {
            return Some(text.len() - rest.trim_start_matches(is_space).len());
        }
        if may_trim && let Some(rest) = text.strip_prefix('+').and_then(|rest| rest.strip_prefix(end)) {
            return Some(text.len() - rest.len());
        }
        let rest = text.strip_prefix(end)?;
        let trims = may_trim && self.whitespace.trim_blocks && rest.starts_with('\n');
        Some(text.len() - rest.len() + usize::from(trims))
    }

    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(()); // Jinja2 does not mind
        }
        let close = rest.find("#}").ok_or_else(|| self.error("missing end of comment tag"))?;
        let signed = close > 0 && matches!(rest.as_bytes()[close - 1], b'-' | b'+');
        let start = close - usize::from(signed);
        let n = self.end_of_tag(&rest[start..], "#}", true).unwrap_or(2);
        self.skip(start + n);
        Ok(())
    }

    /// Code up to the end of its tag; without a tag, up to the end of the source.
    fn code(&mut self, tag: Option<Tag>) -> Result<()> {
        let mut open: Vec<char> = Vec::new();
        loop {
            let rest = self.rest();
            let end = match tag {
                Some(Tag::Block) => self.end_of_tag(rest, "%}", true),
                Some(_) => self.end_of_tag(rest, "}}", false),
                None => None,
            };
            if let Some(n) = end.filter(|_| open.is_empty()) {
                self.push(if tag == Some(Tag::Block) { Tok::BlockEnd } else { Tok::PrintEnd });
                self.skip(n);
                return Ok(());
            }
            let Some(c) = rest.chars().next() else { return Ok(()) };
            if is_space(c) {
                self.skip(rest.len() - rest.trim_start_matches(is_space).len());
                continue;
            }
            let (token, n) = self.token(rest, c)?;
            if let Tok::Op(operator) = token {
                self.balance(&mut open, operator)?;
            }
            self.push(token);
            self.skip(n);
        }
    }

    fn balance(&self, open: &mut Vec<char>, operator: &str) -> Result<()> {
        match operator {
            "{" => open.push('}'),
            "(" => open.push(')'),
            "[" => open.push(']'),
            "}" | ")" | "]" => match open.pop() {
                None => return Err(self.error(format!("unexpected '{operator}'"))),
                Some(expected) if !operator.starts_with(expected) => {
                    return Err(self.error(format!("unexpected '{operator}', expected '{expected}'")));
                }
                Some(_) => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn token(&self, rest: &str, c: char) -> Result<(Tok, usize)> {
        if c.is_ascii_digit() {
            // Behind a dot stands a place in a list, never a float: `a.0.1`.
            let after_dot = self.source[..self.at].ends_with('.');
            return self.number(rest, after_dot);
        }
        if c == '_' || c.is_alphanumeric() {
            let n = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            return Ok((Tok::Name(rest[..n].to_owned()), n));
        }
        if (c == '\'' || c == '"')
            && let Some(n) = string_length(rest, c)
        {
            let text = unescape(&rest[1..n - 1]).map_err(|message| self.error(message))?;
            return Ok((Tok::Str(text), n));
        }
        let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
        let operator = operator.ok_or_else(|| self.error(format!("unexpected char {c:?}")))?;
        Ok((Tok::Op(operator), operator.len()))
    }

    fn number(&self, rest: &str, after_dot: bool) -> Result<(Tok, usize)> {
        let plain = digits(rest, 10);
        let mut float = plain;
        if let Some(fraction) = rest[plain..].strip_prefix('.') {
            let n = digits(fraction, 10);
            float += if n > 0 { 1 + n } else { 0 };
        }
        if let Some(exponent) = rest[float..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let n = digits(&exponent[sign..], 10);
            float += if n > 0 { 1 + sign + n } else { 0 };
        }
        if float > plain && !after_dot {
            let text = rest[..float].replace('_', "");
            let value = text.parse().map_err(|_| self.error(format!("`{text}` is no number")))?;
            return Ok((Tok::Float(value), float));
        }
        let prefixed = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
        let (n, value) = match prefixed.iter().find(|(prefix, _)| rest.starts_with(prefix)) {
            Some(&(_, radix)) if digits(&rest[2..], radix) > 0 => {
                let n = 2 + digits(&rest[2..], radix);
                (n, i64::from_str_radix(&rest[2..n].replace('_', ""), radix))
            }
            _ => (plain, rest[..plain].replace('_', "").parse()),
        };
        let value = value.map_err(|_| self.error(format!("`{}`: the number is too large", &rest[..n])))?;
        Ok((Tok::Int(value), n))
    }
}

/// The length of the digits at the beginning, `_` between them.
fn digits(text: &str, radix: u32) -> usize {
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c.is_digit(radix) && c.is_ascii() => end = at + 1,
            '_' if end == at && at > 0 && chars.peek().is_some_and(|(_, c)| c.is_digit(radix)) => {}
            _ => break,
        }
    }
    end
}

fn next_tag(text: &str) -> Option<(usize, Tag)> {
    let bytes = text.as_bytes();
    let mut from = 0;
    loop {
        let at = from + text[from..].find('{')?;
        match bytes.get(at + 1) {
            Some(b'{') => return Some((at, Tag::Print)),
            Some(b'%') => return Some((at, Tag::Block)),
            Some(b'#') => return Some((at, Tag::Comment)),
            _ => from = at + 1,
        }
    }
}

/// The length of the string at the beginning, with its quotes.
fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// A string without Python's escapes.
fn unescape(text: &str) -> std::result::Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else { return Err("\\ at end of string".to_owned()) };
        rest = &rest[c.len_utf8()..];
        let hex = |n: usize| {
            let digits = rest.get(..n).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or(format!("truncated \\{c} escape"))
        };
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '0'..='7' => {
                let n = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let code = u32::from_str_radix(&format!("{c}{}", &rest[..n]), 8).unwrap_or(0);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = &rest[n..];
            }
            'x' | 'u' | 'U' => {
                let n = [('x', 2), ('u', 4), ('U', 8)].into_iter().find(|(kind, _)| *kind == c).map_or(0, |(_, n)| n);
                let mut code = hex(n)?;
                rest = &rest[n..];
                // Two halves of one character.
                if let Some(low) = low_surrogate(rest).filter(|_| (0xD800..0xDC00).contains(&code)) {
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    rest = &rest[6..];
                }
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            'N' => return Err("\\N escapes are not known here".to_owned()),
            _ => out.extend(['\\', c]),
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn low_surrogate(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok().filter(|code| (0xDC00..0xE000).contains(code))
}
