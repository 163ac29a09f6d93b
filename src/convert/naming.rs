//! Owns what a model's name says: organization, base, size, variant, version. The rules are those of llama.cpp's `gguf`
//! package (`Metadata.get_model_id_components`), so that the same names give the same metadata.

use std::sync::LazyLock;

use regex::Regex;

/// The parts of a name such as `meta-llama/Llama-3.2-1B-Instruct`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// The name without the organization.
    pub(super) full: String,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

impl Name {
    /// Takes a name apart. What looks like a size but is far from the number of parameters is a context length.
    pub(super) fn parse(id: &str, parameters: u64) -> Name {
        if id.contains(' ') {
            return Name { full: id.into(), ..Name::default() };
        }
        let (organization, full) = id.split_once('/').map_or((None, id), |(o, full)| (Some(o), full));
        let organization = organization.filter(|o| !o.starts_with('.')).map(str::to_owned);
        let mut parts: Vec<Part> = full
            .split('-')
            .filter(|p| !p.is_empty())
            .enumerate()
            .map(|(i, text)| Part::read(i, text, parameters))
            .collect();
        drop_words_beside_numbers(&mut parts);
        mark_basename(&mut parts);
        let join = |wanted: &dyn Fn(&Part) -> bool| {
            let texts: Vec<&str> = parts.iter().filter(|p| wanted(p)).map(|p| p.text.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("-"))
        };
        let mut name = Name {
            full: full.into(),
            organization,
            basename: join(&|p| p.basename),
            finetune: join(&|p| p.finetune),
            version: join(&|p| p.version && !p.basename),
            size_label: size_label(&parts),
        };
        if name.size_label.is_none() && name.finetune.is_none() && name.version.is_none() {
            name.basename = None; // too little to tell a base from a name
        }
        name
    }
}

/// A name as a title: words get a capital unless they have capitals or are numbers.
pub(super) fn title(text: &str) -> String {
    let text = text.replace('-', " ");
    text.split_whitespace().map(title_word).collect::<Vec<_>>().join(" ")
}

/// How many numbers a model has.
pub(super) struct Parameters {
    pub(super) all: u64,
    /// Experts of a layer; 0 where there are none.
    pub(super) n_expert: u64,
    /// Where there are: without all experts but one.
    pub(super) of_one_expert: u64,
}

impl Parameters {
    /// The size in a name: `8x7B` where there are experts.
    pub(super) fn label(&self) -> String {
        match self.n_expert {
            0 => count_label(self.all),
            n => format!("{n}x{}", count_label(self.of_one_expert)),
        }
    }
}

/// A number of parameters in two digits or more, such as `135M`, `1.2B`, `6.7B`.
fn count_label(parameters: u64) -> String {
    let n = parameters as f64;
    let (scaled, unit) = match n {
        n if n > 1e12 => (n * 1e-12, "T"),
        n if n > 1e9 => (n * 1e-9, "B"),
        n if n > 1e6 => (n * 1e-6, "M"),
        n => (n * 1e-3, "K"),
    };
    let digits = scaled.round_ties_even().to_string();
    let decimals = 2usize.saturating_sub(digits.trim_start_matches('0').len());
    format!("{scaled:.decimals$}{unit}")
}

fn title_word(word: &str) -> String {
    let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
    if !lower || NUMBER.is_match(word) {
        return word.to_owned();
    }
    let mut after_letter = false;
    let mut titled = String::new();
    for c in word.chars() {
        if after_letter {
            titled.push(c)
        } else {
            titled.extend(c.to_uppercase())
        }
        after_letter = c.is_alphabetic();
    }
    titled
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("pattern of the program: {e}"))
}

static NUMBER: LazyLock<Regex> = LazyLock::new(|| regex(r"^(v\d+(?:\.\d+)*|\d.*)$"));
static VERSION: LazyLock<Regex> = LazyLock::new(|| regex(r"^(?i:(v|iter)?\d+([.]\d+)*)$"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| regex(r"^(?i:i?q\d(_\w)*|b?fp?(16|32))$"));
static SIZE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?i:(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl))$"));
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| regex(r"^(?i:chat|instruct|vision|lora)$"));

/// A part of a name and what it may be.
#[derive(Debug, Default)]
struct Part {
    text: String,
    basename: bool,
    finetune: bool,
    size: bool,
    version: bool,
    quantization: bool,
}

impl Part {
    fn read(i: usize, text: &str, parameters: u64) -> Part {
        let mut part = Part { text: text.to_owned(), ..Part::default() };
        if VERSION.is_match(text) {
            part.version = true;
        } else if TYPE.is_match(text) {
            part.quantization = true;
            part.text = text.to_uppercase();
        } else if i > 0 && SIZE.is_match(text) {
            part.read_size(parameters);
        } else if i > 0 && FINETUNE.is_match(text) {
            part.finetune = true;
        }
        part
    }

    fn read_size(&mut self, parameters: u64) {
        let mut text: Vec<char> = self.text.replace('_', ".").chars().collect();
        if let [.., unit, digit] = *text.as_slice()
            && digit.is_ascii_digit()
        {
            text.truncate(text.len() - 2); // `7b1` is 7.1B
            text.extend(['.', digit, unit]);
        }
        if let [.., before, unit] = text.as_mut_slice()
            && before.is_ascii_digit()
        {
            *unit = unit.to_ascii_uppercase();
        }
        let (number, unit) = text.split_at(text.len() - 1);
        let number: Result<f64, _> = number.iter().collect::<String>().parse();
        let power = "KMBT".find(unit[0]).map_or(-1, |i| i as i32 + 1);
        if let (Ok(number), true) = (number, parameters > 0) {
            let far = (number * 1000f64.powi(power) - parameters as f64).abs() > (7 * parameters / 8) as f64;
            if far {
                self.finetune = true;
                let last = text.len() - 1;
                text[last] = text[last].to_ascii_lowercase();
            }
        }
        self.size = !self.finetune;
        self.text = text.into_iter().collect();
    }

    fn has_kind(&self) -> bool {
        self.basename || self.finetune || self.size || self.version || self.quantization
    }
}

fn drop_words_beside_numbers(parts: &mut [Part]) {
    if parts.iter().any(|p| p.size && p.text.contains(|c: char| c.is_ascii_digit())) {
        parts.iter_mut().filter(|p| p.text.chars().all(char::is_alphabetic)).for_each(|p| p.size = false);
    }
}

/// The base is what comes first: words without a meaning of their own, and versions between them.
fn mark_basename(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let word = !part.has_kind();
        if at_start && ((word && part.text.starts_with(char::is_alphabetic)) || part.version) {
            part.basename = true;
        } else {
            at_start = false;
            part.finetune |= word;
        }
    }
    // Versions at the end of the whole name are versions only.
    for part in parts.iter_mut().rev() {
        if !(part.basename && (part.finetune || part.size || part.version || part.quantization)) {
            break;
        }
        part.basename = false;
    }
}

fn size_label(parts: &[Part]) -> Option<String> {
    let mut sizes: Vec<&str> = Vec::new();
    for part in parts.iter().filter(|p| p.size && !sizes.contains(&p.text.as_str())).collect::<Vec<_>>() {
        if !sizes.contains(&part.text.as_str()) {
            sizes.push(&part.text);
        }
    }
    (!sizes.is_empty()).then(|| sizes.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        id: String,
        total: u64,
        title: Option<String>,
        organization: Option<String>,
        basename: Option<String>,
        finetune: Option<String>,
        version: Option<String>,
        size_label: Option<String>,
        counted: String,
    }

    #[test]
    fn names_come_apart_as_in_llama_cpp() {
        let cases = include_str!("../../tests/data/convert/names.json");
        let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let name = Name::parse(&case.id, case.total);
            assert_eq!(Some(title(&name.full)), case.title, "{}", case.id);
            assert_eq!(name.organization.as_deref().map(title), case.organization, "{}", case.id);
            assert_eq!(
                [name.basename, name.finetune, name.version, name.size_label],
                [case.basename, case.finetune, case.version, case.size_label],
                "{}",
                case.id
            );
            assert_eq!(count_label(case.total), case.counted);
        }
    }

    #[test]
    fn odd_names_do_no_harm() {
        for id in ["", "-", "/", "a/", "/b", "é-ü-7é", "x-1k", "x-9999999999999999999999b", "x-7B9", "日本-7b"] {
            Name::parse(id, 1);
            title(id);
        }
    }
}
