//! Owns the names by which a user asks for a model of a hub.

use std::fmt;

use super::{Error, names};

/// A model of a hub, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `org/repo`.
    pub repo: String,
    /// Which of its files.
    pub part: Part,
}

/// Which files of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Whichever suits best.
    Any,
    /// Those whose names carry this quantization.
    Tag(String),
    /// This one, and the other parts of a split model.
    File(String),
}

impl Spec {
    /// Reads `org/repo`, `org/repo:QUANT` or `org/repo/folder/file.gguf`, with or without `hf.co/` or `huggingface.co/` before it.
    ///
    /// # Errors
    /// [`Error::Spec`]. A text of two words that ends in `.gguf` is no repository but a path, unless an address stands before it.
    pub fn parse(text: &str) -> Result<Spec, Error> {
        let wrong = |found| Error::Spec { text: text.to_owned(), found };
        let (named, from_hub) = without_address(text);
        let (path, tag) = match named.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        let mut words = path.splitn(3, '/');
        let (Some(org), Some(repo), file) = (words.next(), words.next(), words.next()) else {
            return Err(wrong("no `/`"));
        };
        if !is_word(org) || !is_word(repo) {
            return Err(wrong("a name that no repository has"));
        }
        let part = match (file, tag) {
            (None, None) if !from_hub && is_gguf(repo) => return Err(wrong("a file")),
            (None, None) => Part::Any,
            (None, Some(tag)) if is_tag(tag) => Part::Tag(tag.to_owned()),
            (None, Some(_)) => return Err(wrong("something behind the `:` that is no quantization")),
            (Some(file), None) if is_gguf(file) && names::is_safe(file) => Part::File(file.to_owned()),
            (Some(_), _) => return Err(wrong("a path that does not end in .gguf")),
        };
        Ok(Spec { repo: format!("{org}/{repo}"), part })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Any => f.write_str(&self.repo),
            Part::Tag(tag) => write!(f, "{}:{tag}", self.repo),
            Part::File(file) => write!(f, "{}/{file}", self.repo),
        }
    }
}

/// The text behind the address of the hub, and whether there was one.
fn without_address(text: &str) -> (&str, bool) {
    let rest = text.strip_prefix("https://").unwrap_or(text);
    let named = ["hf.co/", "huggingface.co/"].iter().find_map(|host| rest.strip_prefix(host));
    named.map_or((text, false), |named| (named, true))
}

/// The hub's rule for the names of users and repositories.
fn is_word(word: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-' && c != '.');
    (1..=96).contains(&word.len())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(word.chars().next())
        && edge(word.chars().next_back())
        && !word.contains("--")
        && !word.contains("..")
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["org/repo", "a.b/Repo_1.2-GGUF:Q4_K_M", "org/repo/m.gguf", "org/repo/a b/m-00001-of-00002.GGUF"] {
            assert_eq!(Spec::parse(text).unwrap().to_string(), text);
        }
        for text in ["hf.co/org/repo:Q4_0", "https://huggingface.co/org/repo:Q4_0"] {
            assert_eq!(Spec::parse(text).unwrap().to_string(), "org/repo:Q4_0");
        }
        assert_eq!(Spec::parse("hf.co/org/repo.gguf").unwrap().part, Part::Any);
    }

    #[test]
    fn paths_and_nonsense_are_no_specs() {
        for text in [
            "",
            "m",
            "m.gguf",
            "models/m.gguf",
            "./a/m.gguf",
            "../a/m.gguf",
            "/a/m.gguf",
            "a/b/c",
            "a/b/c:Q4_0",
            "a/b:",
            "a/b:Q4/0",
            "a/b/../m.gguf",
            "a//m.gguf",
            "a/b//m.gguf",
            "-a/b",
            "a/b-",
            "a/b--c",
            "a\\b/c",
            "a b/c",
            "ftp://a/b",
            "https://other.org/a/b",
            "a/b/c:d.gguf",
        ] {
            let error = Spec::parse(text).unwrap_err().to_string();
            assert!(error.contains("expected ORG/REPO, "), "{text}: {error}");
        }
    }
}
