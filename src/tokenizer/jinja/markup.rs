//! Owns escaped HTML, as far as templates meet it: `safe`, `escape`, and what `+` does with either.

use std::sync::LazyLock;

use regex::Regex;

use super::Result;
use super::repr;
use super::text::Text;
use super::value::Value;

/// A text with HTML's signs escaped, marked as such; one that is marked stays.
pub(super) fn escape(text: &Text) -> Result<Text> {
    if text.is_markup() { Ok(text.clone()) } else { force_escape(text) }
}

pub(super) fn force_escape(text: &Text) -> Result<Text> {
    let escape = |run: &str| {
        let run = run.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        run.replace('\'', "&#39;").replace('"', "&#34;")
    };
    text.map_runs(escape)?.with_markup(true)
}

/// `escape(value)` of any value.
pub(super) fn escape_value(value: &Value) -> Result<Text> {
    escape(&repr::str(value)?)
}

/// Text without tags, its white space made single blanks.
pub(super) fn strip_tags(text: &Text) -> Result<Text> {
    static TAGS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?s)<!--.*?-->|<.*?>").unwrap_or_else(|e| unreachable!("{e}")));
    let bare = TAGS.replace_all(text.as_str(), "");
    let words: Vec<&str> = bare.split_whitespace().collect();
    let plain = words.join(" ").replace("&lt;", "<").replace("&gt;", ">");
    let plain = plain.replace("&#39;", "'").replace("&#34;", "\"").replace("&quot;", "\"").replace("&amp;", "&");
    text.derive(&plain)?.with_markup(false)
}
