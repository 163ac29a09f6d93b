//! Owns the name of the splitting rules behind a `tokenizer.json`. llama.cpp tells tokenizers apart by a hash over the
//! ids of a text, which needs a list of all models; here the rules themselves are read, and rules that are not known
//! have no name.

use serde_json::Value;

/// The value of `tokenizer.ggml.pre` for the rules of a `tokenizer.json`; the rules in words where they are not known.
pub(super) fn name(tokenizer: &Value) -> Result<&'static str, String> {
    let rules = Rules {
        nfc: match normalizer(&tokenizer["normalizer"]) {
            Some(nfc) => nfc,
            None => return Err(format!("the normalizer {}", tokenizer["normalizer"])),
        },
        whole_words: tokenizer["model"]["ignore_merges"].as_bool().unwrap_or(false),
        steps: steps(&tokenizer["pre_tokenizer"]),
    };
    let steps: Vec<&str> = rules.steps.iter().map(String::as_str).collect();
    let found = KNOWN.iter().find(|known| {
        known.steps == steps
            && known.nfc == rules.nfc
            && known.whole_words.is_none_or(|whole| whole == rules.whole_words)
    });
    found.map(|known| known.name).ok_or_else(|| rules.in_words())
}

struct Rules {
    nfc: bool,
    whole_words: bool,
    steps: Vec<String>,
}

impl Rules {
    fn in_words(&self) -> String {
        let nfc = if self.nfc { "NFC, " } else { "" };
        let whole = if self.whole_words { ", whole words first" } else { "" };
        format!("{nfc}{}{whole}", self.steps.join(", then "))
    }
}

/// Whether text is brought to NFC; `None` for other changes of the text.
fn normalizer(normalizer: &Value) -> Option<bool> {
    match normalizer["type"].as_str() {
        None if normalizer.is_null() => Some(false),
        Some("NFC") => Some(true),
        Some("Sequence") => match normalizer["normalizers"].as_array()?.as_slice() {
            [] => Some(false),
            [one] if one["type"] != "Sequence" => self::normalizer(one),
            _ => None,
        },
        _ => None,
    }
}

/// The steps of a pre-tokenizer, each in a few words or as its pattern.
fn steps(pre: &Value) -> Vec<String> {
    match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().into_iter().flatten().map(step).collect(),
        _ => vec![step(pre)],
    }
}

fn step(step: &Value) -> String {
    let flag = |key: &str, default: bool| step[key].as_bool().unwrap_or(default);
    match step["type"].as_str() {
        Some("ByteLevel") if !flag("add_prefix_space", true) => {
            if flag("use_regex", true) {
                GPT2.into()
            } else {
                BYTES.into()
            }
        }
        Some("Digits") if flag("individual_digits", false) => DIGITS.into(),
        Some("Digits") => NUMBERS.into(),
        Some("Punctuation") if step["behavior"].as_str().is_some_and(|b| b.eq_ignore_ascii_case("contiguous")) => {
            SIGNS.into()
        }
        Some("Split") if step["behavior"] == "Isolated" && !flag("invert", false) => {
            match step["pattern"]["Regex"].as_str() {
                Some(regex) => regex.to_owned(),
                None => step.to_string(),
            }
        }
        _ => step.to_string(),
    }
}

const GPT2: &str = "GPT-2's pattern on bytes";
const BYTES: &str = "bytes";
const DIGITS: &str = "single digits";
const NUMBERS: &str = "runs of digits";
const SIGNS: &str = "runs of punctuation";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";

/// Rules with a name.
struct Known {
    name: &'static str,
    nfc: bool,
    /// `None` where both have the same name.
    whole_words: Option<bool>,
    steps: &'static [&'static str],
}

const fn known(name: &'static str, nfc: bool, whole_words: Option<bool>, steps: &'static [&'static str]) -> Known {
    Known { name, nfc, whole_words, steps }
}

/// Names and rules as the runtime's tokenizer has them (`tokenizer/pre.rs`). Several models share rules under names of
/// their own (`smaug-bpe` and `dbrx`, `smollm` and `starcoder`): any of them gives the same ids.
static KNOWN: &[Known] = &[
    known("gpt-2", false, Some(false), &[GPT2]),
    known("olmo", true, Some(false), &[GPT2]),
    known("smollm", false, Some(false), &[DIGITS, GPT2]),
    known("command-r", true, Some(false), &[DIGITS, GPT2]),
    known("falcon", false, Some(false), &[SIGNS, GPT2, NUMBERS, THREE_DIGITS]),
    known("llama-bpe", false, Some(true), &[LLAMA3, BYTES]),
    known("smaug-bpe", false, Some(false), &[LLAMA3, BYTES]),
    known("qwen2", true, Some(false), &[QWEN2, BYTES]),
    known("deepseek-r1-qwen", false, Some(false), &[QWEN2, BYTES]),
    known("qwen35", true, Some(false), &[QWEN35, BYTES]),
    known("gpt-4o", false, Some(false), &[GPT4O, BYTES]),
    known("tekken", false, Some(true), &[TEKKEN, BYTES]),
    known("deepseek-coder", false, Some(false), &[NEWLINE, LETTERS, PUNCTUATION, CJK, DIGITS, BYTES]),
    known("deepseek-v3", false, Some(false), &[DIGITS_3, CJK_KANA, DEEPSEEK3, BYTES]),
    known("seed-coder", false, Some(false), &[SEED_CODER, BYTES]),
    known("bailingmoe", false, Some(false), &[BAILING, BYTES]),
    known("bloom", false, Some(false), &[BLOOM, BYTES]),
];

// The patterns as the models' files spell them.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const NEWLINE: &str = r"[\r\n]";
const LETTERS: &str = r"\s?\p{L}+";
const PUNCTUATION: &str = r"\s?\p{P}+";
const CJK: &str = "[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+";
const DIGITS_3: &str = r"\p{N}{1,3}";
const CJK_KANA: &str = "[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const SEED_CODER: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
);
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
