//! Owns the splitting of text into pieces before byte-pair encoding, one rule set for each known value of
//! `tokenizer.ggml.pre`. Refuses patterns that could backtrack: all run in linear time.

use regex::Regex;

/// The rules behind one value of `tokenizer.ggml.pre`.
pub(super) struct Pre {
    steps: &'static [Step],
    /// A piece that is a token of the vocabulary is taken whole, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether BOS is added where the file does not say.
    pub(super) add_bos: bool,
    /// Text is brought to Unicode's NFC first.
    pub(super) nfc: bool,
}

/// The rules for a name; `None` for a name nobody here knows.
pub(super) fn named(name: &str) -> Option<Pre> {
    let plain = |steps| Pre { steps, whole_words: false, add_bos: false, nfc: false };
    let nfc = |steps| Pre { nfc: true, ..plain(steps) };
    let whole = |steps| Pre { whole_words: true, ..plain(steps) };
    Some(match name {
        "default" => plain(&DEFAULT),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            Pre { add_bos: true, ..whole(&LLAMA3) }
        }
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => plain(&LLAMA3),
        "glm4" => whole(&LLAMA3),
        "qwen2" => nfc(&QWEN2),
        "deepseek-r1-qwen" | "stablelm2" | "megrez" | "hunyuan" | "kormo" | "grok-2" => plain(&QWEN2),
        "qwen35" => nfc(&QWEN35),
        "gpt-2" | "phi-2" | "mpt" | "jais" | "trillion" | "exaone4" | "gigachat" | "a.x-4.0" | "mellum" => plain(&GPT2),
        "olmo" => nfc(&GPT2),
        "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" => plain(&DIGITS_GPT2),
        "command-r" => nfc(&DIGITS_GPT2),
        "falcon" => plain(&FALCON),
        "gpt-4o" | "llama4" | "kanana2" => plain(&GPT4O),
        "tekken" => Pre { add_bos: true, ..whole(&TEKKEN) },
        "deepseek-llm" => plain(&DEEPSEEK_LLM),
        "deepseek-coder" => plain(&DEEPSEEK_CODER),
        "deepseek-v3" | "hunyuan-dense" => plain(&DEEPSEEK3),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(&BAILING),
        "seed-coder" => plain(&SEED_CODER),
        "poro-chat" | "bloom" | "gpt3-finnish" => plain(&BLOOM),
        "viking" => plain(&VIKING),
        _ => return None,
    })
}

/// The rules where a file names none.
pub(super) fn default() -> Pre {
    Pre { steps: &DEFAULT, whole_words: false, add_bos: false, nfc: false }
}

/// The compiled rules.
pub(super) struct Splitter(Vec<(Regex, Spaces)>);

impl Splitter {
    pub(super) fn new(pre: &Pre) -> Splitter {
        Splitter(pre.steps.iter().map(|s| (s.regex(), s.spaces)).collect())
    }

    /// Hands every piece of the text to `sink`, in order; together they are the text.
    pub(super) fn split(&self, text: &str, sink: &mut dyn FnMut(&str)) {
        split(&self.0, text, sink);
    }
}

/// One pattern over the pieces that the patterns before it left; matches and the text between them are pieces.
struct Step {
    pattern: &'static str,
    spaces: Spaces,
}

/// How a run of white space before other text is cut. The published patterns say `\s+(?!\S)|\s+`: all but the
/// last character, which goes with the word. Looking ahead is left to the code, so that the pattern stays regular.
#[derive(Clone, Copy, PartialEq)]
enum Spaces {
    /// As the pattern matched.
    AsMatched,
    /// The last character of the run is left.
    LeaveLast,
    /// The same, but a match that ends in a newline was made by another alternative and stays.
    LeaveLastUnlessNewline,
}

impl Step {
    fn regex(&self) -> Regex {
        // The patterns are constants, and a test compiles each.
        Regex::new(self.pattern).unwrap_or_else(|e| unreachable!("pattern of the program: {e}"))
    }
}

fn split(steps: &[(Regex, Spaces)], text: &str, sink: &mut dyn FnMut(&str)) {
    let Some(((regex, spaces), rest)) = steps.split_first() else {
        if !text.is_empty() {
            sink(text);
        }
        return;
    };
    let mut at = 0;
    while let Some(found) = regex.find_at(text, at) {
        let end = spaces.cut(text, found.start(), found.end());
        split(rest, &text[at..found.start()], sink);
        split(rest, &text[found.start()..end], sink);
        at = end;
    }
    split(rest, &text[at..], sink);
}

impl Spaces {
    /// Where a match really ends.
    fn cut(self, text: &str, start: usize, end: usize) -> usize {
        let run = &text[start..end];
        let Some((last, _)) = run.char_indices().next_back() else { return end };
        if self == Spaces::AsMatched || end == text.len() || last == 0 || !run.chars().all(char::is_whitespace) {
            return end;
        }
        if self == Spaces::LeaveLastUnlessNewline && run.ends_with(['\r', '\n']) {
            return end;
        }
        start + last
    }
}

const fn step(pattern: &'static str) -> Step {
    Step { pattern, spaces: Spaces::AsMatched }
}

const fn words(pattern: &'static str) -> Step {
    Step { pattern, spaces: Spaces::LeaveLastUnlessNewline }
}

const GPT2_STEP: Step =
    Step { pattern: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", spaces: Spaces::LeaveLast };

static GPT2: [Step; 1] = [GPT2_STEP];

static DIGITS_GPT2: [Step; 2] = [step(r"\p{N}"), GPT2_STEP];

static DEFAULT: [Step; 4] = [step(r"[\p{P}\$\+<=>\^~\|]+"), GPT2_STEP, step(r"\p{N}+"), step(r"[0-9][0-9][0-9]")];

static FALCON: [Step; 3] = [step(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2_STEP, step(r"[0-9][0-9][0-9]")];

static LLAMA3: [Step; 1] = [words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
)];

static QWEN2: [Step; 1] =
    [words(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")];

static QWEN35: [Step; 1] = [words(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+",
))];

static GPT4O: [Step; 1] = [words(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
))];

static TEKKEN: [Step; 1] = [words(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
))];

static DEEPSEEK_LLM: [Step; 6] = [
    step(r"[\r\n]"),
    step(concat!(
        r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
        r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}",
        r"\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}",
        r"\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}",
        r"\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}",
        r"\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}",
        r"\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}",
        r"\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}",
        r"\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}",
        r"\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}",
        r"\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}",
        r"\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}",
        r"\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
    )),
    step(r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+"),
    step(r"\s+$"),
    step(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"),
    step(r"\p{N}+"),
];

static DEEPSEEK_CODER: [Step; 5] = [
    step(r"[\r\n]"),
    step(r"\s?\p{L}+"),
    step(r"\s?\p{P}+"),
    step(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+"),
    step(r"\p{N}"),
];

static DEEPSEEK3: [Step; 3] = [
    step(r"\p{N}{1,3}"),
    step(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"),
    words(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+",
    )),
];

static BAILING: [Step; 1] =
    [words(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+")];

static SEED_CODER: [Step; 1] =
    [words(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+")];

const BLOOM_STEP: Step = step(r" ?[^(\s|.,!?…。，、।۔،)]+");

static BLOOM: [Step; 1] = [BLOOM_STEP];

static VIKING: [Step; 2] = [BLOOM_STEP, step(r"\p{N}")];

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 18] = [
        "default",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "gpt-2",
        "smollm",
        "command-r",
        "falcon",
        "gpt-4o",
        "tekken",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "bailingmoe",
        "seed-coder",
        "bloom",
        "viking",
        "olmo",
    ];

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        let pre = named(name).unwrap_or_else(|| panic!("{name} is not known"));
        Splitter::new(&pre).split(text, &mut |p| pieces.push(p.to_owned()));
        pieces
    }

    #[test]
    fn pieces_join_to_the_text() {
        let text = "  Hello,\tWORLD's 12345 \u{e9}\u{301} \r\n\n  x\u{85}\u{0} 日本語 ʰA !?\n ";
        for name in NAMES {
            assert_eq!(pieces(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn the_last_space_goes_with_the_word() {
        assert_eq!(pieces("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(pieces("gpt-2", "a \n b"), ["a", " \n", " b"]);
        assert_eq!(pieces("llama-bpe", "a \n  b"), ["a", " \n", " ", " b"]);
        assert_eq!(pieces("llama-bpe", "\t\tx"), ["\t", "\tx"]);
    }

    #[test]
    fn digits_group_as_each_rule_says() {
        assert_eq!(pieces("llama-bpe", "1234567"), ["123", "456", "7"]);
        assert_eq!(pieces("qwen2", "123"), ["1", "2", "3"]);
        assert_eq!(pieces("gpt-2", "x 1234"), ["x", " 1234"]);
        assert_eq!(pieces("smollm", "x 12"), ["x", " ", "1", "2"]);
        assert_eq!(pieces("default", " 12345"), [" ", "123", "45"]);
    }

    #[test]
    fn capitals_split_words_where_the_rule_says_so() {
        assert_eq!(pieces("tekken", "HTMLParser fooBar"), ["HTMLParser", " foo", "Bar"]);
        assert_eq!(pieces("gpt-4o", "DON'T"), ["DON'T"]);
    }

    #[test]
    fn an_unknown_name_has_no_rules() {
        assert!(named("no-such-rules").is_none());
    }
}
