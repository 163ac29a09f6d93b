//! Owns the tokens of a vocabulary by id, as they are found. Refuses nothing: what has no place among them is left out, and
//! told.

use hashbrown::{HashMap, HashSet};
use indexmap::IndexMap;

use super::Kind;
use crate::gguf::Metadata;

/// The tokens by id, as many as the model has rows.
pub(super) struct Tokens {
    texts: Vec<String>,
    kinds: Vec<Kind>,
    /// Empty for byte-level BPE.
    scores: Vec<f32>,
    /// Whether a token was found for the id.
    taken: Vec<bool>,
}

impl Tokens {
    /// Every id unused.
    pub(super) fn padding(n: usize, score: Option<f32>) -> Tokens {
        Tokens {
            texts: (0..n).map(|i| format!("[PAD{i}]")).collect(),
            kinds: vec![Kind::Unused; n],
            scores: score.map_or_else(Vec::new, |score| vec![score; n]),
            taken: vec![false; n],
        }
    }

    /// Gives an id its token. The first of several stays.
    pub(super) fn put(&mut self, id: usize, text: &str, kind: Kind, score: f32, left_out: &mut LeftOut) {
        match self.taken.get(id) {
            None => left_out.push(Why::NoRow, text),
            Some(true) if self.texts[id] != text => left_out.push(Why::SameId, text),
            Some(_) => self.set(id, text, kind, score),
        }
    }

    /// Gives an id a token that is beside the vocabulary proper, and comes before what that has there.
    pub(super) fn put_added(&mut self, id: usize, text: &str, kind: Kind, score: f32, left_out: &mut LeftOut) {
        match self.taken.get(id) {
            None => left_out.push(Why::NoRow, text),
            Some(&taken) => {
                if taken && self.texts[id] != text && self.texts[id].replace('\u{2581}', " ") != text {
                    left_out.push(Why::SameId, &self.texts[id]);
                }
                self.set(id, text, kind, score);
            }
        }
    }

    fn set(&mut self, id: usize, text: &str, kind: Kind, score: f32) {
        self.texts[id] = text.to_owned();
        self.kinds[id] = kind;
        self.taken[id] = true;
        if let Some(place) = self.scores.get_mut(id) {
            *place = score;
        }
    }

    /// Makes each text stand for one id, the first; ids that are no tokens get texts that none has.
    pub(super) fn settle(&mut self, left_out: &mut LeftOut) {
        let mut first: HashMap<String, usize> = HashMap::with_capacity(self.texts.len());
        for id in 0..self.texts.len() {
            if !self.taken[id] || self.texts[id].is_empty() {
                continue;
            }
            match first.get(&self.texts[id]) {
                None => drop(first.insert(self.texts[id].clone(), id)),
                Some(&other) => {
                    left_out.push(Why::SameText, &self.texts[id]);
                    // A token of the vocabulary proper may be declared special a second time.
                    if matches!(self.kinds[id], Kind::Control | Kind::UserDefined) && self.kinds[other] == Kind::Normal
                    {
                        self.kinds[other] = self.kinds[id];
                    }
                    self.taken[id] = false;
                }
            }
        }
        for id in (0..self.texts.len()).filter(|&id| !self.taken[id]).collect::<Vec<_>>() {
            let names = (0..).map(|i| if i == 0 { format!("[PAD{id}]") } else { format!("[PAD{id}.{i}]") });
            let text = names.into_iter().find(|text| !first.contains_key(text)).unwrap_or_default();
            (self.texts[id], self.kinds[id]) = (text, Kind::Unused);
        }
    }

    /// Whether a token was found for an id.
    pub(super) fn has(&self, id: usize) -> bool {
        self.taken.get(id) == Some(&true)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn id(&self, text: &str) -> Option<u64> {
        self.texts.iter().position(|t| t == text).map(|id| id as u64)
    }

    /// Marks the token of a text as special.
    pub(super) fn make_control(&mut self, text: &str) {
        if let Some(id) = self.id(text) {
            self.kinds[id as usize] = Kind::Control;
        }
    }

    /// The merges of two tokens that make a third.
    pub(super) fn with_known_parts(&self, merges: Vec<String>, left_out: &mut LeftOut) -> Vec<String> {
        let texts: HashSet<&str> = self.texts.iter().map(String::as_str).collect();
        let is_known = |merge: &String| {
            let parts = merge.split_once(' ');
            let known =
                |(a, b): (&str, &str)| texts.contains(a) && texts.contains(b) && texts.contains(&*format!("{a}{b}"));
            let known = parts.is_some_and(known);
            if !known {
                left_out.push(Why::Merge, merge);
            }
            known
        };
        merges.into_iter().filter(is_known).collect()
    }

    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(super) fn write(&self, model: &str, pre: &str, meta: &mut Metadata) {
        meta.insert("tokenizer.ggml.model", model);
        meta.insert("tokenizer.ggml.pre", pre);
        meta.insert("tokenizer.ggml.tokens", self.texts.clone());
        if !self.scores.is_empty() {
            meta.insert("tokenizer.ggml.scores", self.scores.clone());
        }
        meta.insert("tokenizer.ggml.token_type", self.kinds.iter().map(|&kind| kind as i32).collect::<Vec<_>>());
    }
}

/// Why a token or a merge is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Why {
    NoRow,
    SameId,
    SameText,
    Merge,
}

/// What is left out, with the first few of each kind by name.
#[derive(Debug, Default)]
pub(super) struct LeftOut(IndexMap<Why, (usize, Vec<String>)>);

/// How many are named.
const NAMED: usize = 3;

impl LeftOut {
    pub(super) fn push(&mut self, why: Why, text: &str) {
        let (n, names) = self.0.entry(why).or_default();
        *n += 1;
        if names.len() < NAMED {
            let short: String = text.chars().take(40).collect();
            names.push(format!("{short:?}"));
        }
    }

    /// One sentence for each reason.
    pub(super) fn tell(self, notices: &mut Vec<String>) {
        for (why, (n, names)) in self.0 {
            let (one, many, reason) = match why {
                Why::NoRow => ("token", "tokens", "without a row in the model"),
                Why::SameId => ("token", "tokens", "whose id another one has"),
                Why::SameText => ("token", "tokens", "whose text another one has"),
                Why::Merge => ("merge", "merges", "of tokens that are not in the vocabulary"),
            };
            let what = if n == 1 { one } else { many };
            let more = if n > names.len() { ", ..." } else { "" };
            notices.push(format!("{n} {what} {reason} left out: {}{more}", names.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_stands_for_one_id() {
        let (mut tokens, mut left_out) = (Tokens::padding(6, None), LeftOut::default());
        for (id, text) in [(0, "a"), (1, "b"), (1, "c"), (3, "a"), (4, "[PAD2]"), (9, "far")] {
            tokens.put(id, text, Kind::Normal, 0.0, &mut left_out);
        }
        tokens.put_added(0, "A", Kind::Control, 0.0, &mut left_out);
        tokens.settle(&mut left_out);
        assert_eq!(tokens.texts, ["A", "b", "[PAD2.1]", "a", "[PAD2]", "[PAD5]"]);
        assert_eq!(tokens.kinds[2], Kind::Unused);
        let merges = ["A b", "b a", "a"].map(str::to_owned).to_vec();
        assert!(tokens.with_known_parts(merges, &mut left_out).is_empty());
        let mut told = Vec::new();
        left_out.tell(&mut told);
        assert_eq!(
            told,
            [
                "2 tokens whose id another one has left out: \"c\", \"a\"",
                "1 token without a row in the model left out: \"far\"",
                "3 merges of tokens that are not in the vocabulary left out: \"A b\", \"b a\", \"a\"",
            ]
        );
    }

    #[test]
    fn the_first_of_two_equal_tokens_stays_and_is_special_if_either_is() {
        let (mut tokens, mut left_out) = (Tokens::padding(3, Some(-1.0)), LeftOut::default());
        tokens.put(0, "<x>", Kind::Normal, 0.0, &mut left_out);
        tokens.put_added(2, "<x>", Kind::Control, 0.0, &mut left_out);
        tokens.settle(&mut left_out);
        assert_eq!((tokens.id("<x>"), tokens.kinds[0], tokens.kinds[2]), (Some(0), Kind::Control, Kind::Unused));
    }
}
