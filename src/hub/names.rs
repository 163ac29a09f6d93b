//! Owns what the names of files say: whether one is a model, which part of a split model it is, which quantization it
//! names, and whether it may be written to the disk at all.

/// Whether a file name is a model's, or of a split one the first part's. Projectors of images (`mmproj`), importance matrices and
/// exit files are GGUF files too, and none.
pub fn is_model(name: &str) -> bool {
    is_model_part(name) && split(name).is_none_or(|part| part.no == 1)
}

/// As [`is_model`], any part.
pub(super) fn is_model_part(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    name.ends_with(".gguf") && !name.ends_with(".exit.gguf") && !name.contains("mmproj") && !name.starts_with("imatrix")
}

/// What `NAME-00002-of-00003.gguf` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    pub(super) stem: &'a str,
    /// From 1.
    pub(super) no: u32,
    pub(super) of: u32,
}

/// The part that a name means, if it means one.
pub(super) fn split(name: &str) -> Option<Split<'_>> {
    let (rest, of) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let number = |text: &str| (text.len() == 5).then(|| text.parse().ok())?;
    let (no, of) = (number(no)?, number(of)?);
    (1 <= no && no <= of).then_some(Split { stem, no, of })
}

/// Whether a name carries a quantization's, as a word of its own: `Q4_K` is not in `x-Q4_K_M.gguf`.
pub(super) fn has_tag(name: &str, tag: &str) -> bool {
    has_word(name, tag, |c| !c.is_alphanumeric() && c != '_')
}

/// As [`has_tag`], behind an underscore too: `model_q4_0.gguf`.
pub(super) fn has_tag_loosely(name: &str, tag: &str) -> bool {
    has_word(name, tag, |c| !c.is_alphanumeric())
}

fn has_word(name: &str, word: &str, may_precede: impl Fn(char) -> bool) -> bool {
    let (name, word) = (name.to_ascii_lowercase(), word.to_ascii_lowercase());
    name.match_indices(&word).any(|(at, _)| {
        let before = name[..at].chars().next_back().is_none_or(&may_precede);
        let after = name[at + word.len()..].chars().next();
        before && after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

/// The quantization that a file's name carries, as it is written there.
pub(super) fn tag(name: &str) -> Option<&str> {
    let stem = split(name).map_or_else(|| name.strip_suffix(".gguf").unwrap_or(name), |part| part.stem);
    let words = stem.rsplit(|c: char| !c.is_alphanumeric() && c != '_');
    words.into_iter().find(|word| is_quantization(word))
}

/// `Q4_0`, `IQ2_XXS`, `TQ1_0`, `F16`, `BF16`, `MXFP4_MOE` and the like.
fn is_quantization(word: &str) -> bool {
    let word = word.to_ascii_uppercase();
    let quantized = ["IQ", "TQ", "Q"].iter().find_map(|prefix| word.strip_prefix(prefix));
    let digit_first = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()) && rest[1..].starts_with('_');
    quantized.is_some_and(digit_first)
        || word.starts_with("MXFP4")
        || ["F16", "F32", "BF16", "FP16", "FP32", "NVFP4"].contains(&word.as_str())
}

/// Whether a name from a server may become a path below a folder: relative, without a step upwards, and the same
/// path on every system.
pub(super) fn is_safe(name: &str) -> bool {
    let bad = |c: char| c.is_control() || matches!(c, '\\' | ':');
    let step = |step: &str| !step.is_empty() && step != "." && step != "..";
    name.len() <= 1024 && !name.contains(bad) && name.split('/').all(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_told_from_other_files() {
        for model in ["m.gguf", "sub/M-Q4_0.gguf", "m-00001-of-00003.gguf", "m-of-mine.gguf", "m-1-of-2.gguf"] {
            assert!(is_model(model), "{model}");
        }
        for other in ["m.bin", "m.exit.gguf", "mmproj-F16.gguf", "sub/m-mmproj-f16.gguf", "m-00002-of-00003.gguf"] {
            assert!(!is_model(other), "{other}");
        }
        assert!(!is_model("imatrix_unsloth.gguf") && is_model("m-imatrix-Q4_0.gguf"));
    }

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!(split("a/m-00002-of-00010.gguf"), Some(Split { stem: "a/m", no: 2, of: 10 }));
        for none in
            ["m.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-2-of-3.gguf", "m-00001-of-00002.bin"]
        {
            assert_eq!(split(none), None, "{none}");
        }
    }

    #[test]
    fn tags_are_whole_words() {
        assert!(has_tag("Llama-3-Q4_K_M.gguf", "q4_k_m") && has_tag("q4_0/m.gguf", "Q4_0"));
        assert!(has_tag("m-UD-Q4_K_XL.gguf", "Q4_K_XL") && has_tag("m.Q4_0-00001-of-00002.gguf", "Q4_0"));
        for (name, tag) in [
            ("m-Q4_K_M.gguf", "Q4_K"),
            ("m-IQ4_XS.gguf", "Q4_XS"),
            ("m-Q4_0_8_8.gguf", "Q4_0"),
            ("m_q4_0.gguf", "Q4_0"),
        ] {
            assert!(!has_tag(name, tag), "{name} {tag}");
        }
        assert!(has_tag_loosely("m_q4_0.gguf", "Q4_0") && !has_tag_loosely("mq4_0.gguf", "Q4_0"));
    }

    #[test]
    fn a_name_tells_its_quantization() {
        for (name, expected) in [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("m-UD-IQ2_XXS-00001-of-00002.gguf", Some("IQ2_XXS")),
            ("BF16/m-bf16.gguf", Some("bf16")),
            ("gpt-oss-20b-MXFP4.gguf", Some("MXFP4")),
            ("qwen2-7b.gguf", None),
            ("Q-é.gguf", None),
        ] {
            assert_eq!(tag(name), expected, "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        assert!(is_safe("m.gguf") && is_safe("a/b c/m#?%.gguf") && is_safe("..m.gguf"));
        for bad in ["", "/m", "../m", "a/../m", "a//m", "a/.", "..\\m", "C:m", "a\0b", "a\nb", "m/"] {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }
}
