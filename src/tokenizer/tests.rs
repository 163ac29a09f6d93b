//! Owns the checks of rules and refusals on vocabularies small enough to read.

use super::*;
use crate::gguf::Value;

const CONTROL: i32 = Kind::Control as i32;
const USER: i32 = Kind::UserDefined as i32;

fn bpe_meta() -> Metadata {
    let mut meta = Metadata::new();
    let tokens = ["a", "b", "Ġ", "ab", "Ġab", "<s>", "</s>", "<|im_end|>", "<t>", "<t>a", "Ã", "©"];
    let kinds = [1, 1, 1, 1, 1, CONTROL, CONTROL, 1, USER, USER, 1, 1];
    meta.insert(keys::MODEL, "gpt2");
    meta.insert(keys::PRE, "gpt-2");
    meta.insert(keys::TOKENS, tokens.map(String::from).to_vec());
    meta.insert(keys::TOKEN_TYPE, kinds.to_vec());
    meta.insert(keys::MERGES, ["a b", "Ġ ab"].map(String::from).to_vec());
    meta.insert(keys::BOS, 5u32);
    meta.insert(keys::EOS, 6u32);
    meta
}

fn spm_meta() -> Metadata {
    let mut meta = Metadata::new();
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "▁a"];
    meta.insert(keys::MODEL, "llama");
    meta.insert(keys::TOKENS, tokens.map(String::from).to_vec());
    meta.insert(keys::TOKEN_TYPE, vec![2, 3, 3, 6, 1, 1, 1]);
    meta.insert(keys::SCORES, vec![0.0f32, 0.0, 0.0, 0.0, -2.0, -3.0, -1.0]);
    meta
}

fn with(mut meta: Metadata, key: &str, value: impl Into<Value>) -> Metadata {
    meta.insert(key, value);
    meta
}

fn error(meta: &Metadata) -> String {
    Tokenizer::from_gguf(meta).err().expect("an error").to_string()
}

#[test]
fn merges_apply_by_rank() {
    let t = Tokenizer::from_gguf(&bpe_meta()).unwrap();
    assert_eq!(t.encode("ab ab b", Special::Plain), [3, 4, 2, 1]);
    assert_eq!(t.encode("xaz", Special::Plain), [0], "bytes without a token, and no unknown token, add nothing");
}

#[test]
fn special_tokens_are_parsed_on_request_and_user_defined_ones_always() {
    let t = Tokenizer::from_gguf(&bpe_meta()).unwrap();
    assert_eq!(t.encode("<s>a<t>a", Special::Parse), [5, 0, 9], "the longest match wins");
    assert_eq!(t.encode("<t>b", Special::Plain), [8, 1]);
    assert!(!t.encode("<s>", Special::Plain).contains(&5));
}

#[test]
fn bos_and_eos_are_added_once_and_only_where_the_file_asks() {
    let ids = |meta: Metadata, text| Tokenizer::from_gguf(&meta).unwrap().encode_whole(text, Special::Parse);
    let asked = || with(with(bpe_meta(), keys::ADD_BOS, true), keys::ADD_EOS, true);
    assert_eq!(ids(bpe_meta(), "a"), [0]);
    assert_eq!(ids(asked(), "a"), [5, 0, 6]);
    assert_eq!(ids(asked(), "<s>a</s>"), [5, 0, 6]);
    assert_eq!(ids(asked(), ""), [5, 6]);
    assert_eq!(ids(spm_meta(), "a"), [1, 6], "SentencePiece files ask by default");
    assert_eq!(ids(with(spm_meta(), keys::ADD_BOS, false), "<s>a"), [1, 6]);
}

#[test]
fn tokens_known_to_end_a_turn_are_control_tokens() {
    let t = Tokenizer::from_gguf(&bpe_meta()).unwrap();
    assert_eq!((t.bos(), t.eos(), t.eot()), (Some(5), Some(6), Some(7)));
    assert!(t.is_control(7) && t.is_end_of_generation(7) && t.is_end_of_generation(6));
    assert!(!t.is_end_of_generation(5) && !t.is_end_of_generation(0) && !t.is_end_of_generation(999));
    assert_eq!(t.decode(&[0, 7, 6, 1, 999]), b"ab");
}

#[test]
fn a_stream_shows_whole_characters_only() {
    let t = Tokenizer::from_gguf(&bpe_meta()).unwrap();
    let mut stream = t.stream();
    assert_eq!(stream.push(10), "");
    assert_eq!(stream.push(11), "é");
    assert_eq!(stream.push(10), "");
    assert_eq!(stream.push(0), "\u{FFFD}a", "no later byte completes the character");
    assert_eq!(stream.push(11), "\u{FFFD}", "no character begins with this byte");
    assert_eq!(stream.push(10), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn the_space_that_encoding_adds_is_not_shown() {
    let t = Tokenizer::from_gguf(&spm_meta()).unwrap();
    assert_eq!(t.encode("a", Special::Parse), [6]);
    assert_eq!(t.decode(&[1, 6, 6]), b"a a");
    assert_eq!(t.stream().push(6), "a");
    assert_eq!(t.stream_after(&[1, 6]).push(6), " a");
    assert_eq!(t.stream_after(&[1]).push(6), "a");
    let bare = Tokenizer::from_gguf(&with(spm_meta(), keys::SPACE_PREFIX, false)).unwrap();
    assert_eq!(bare.encode("a a", Special::Parse), [5, 6]);
    assert_eq!(bare.stream().push(6), " a");
}

#[test]
fn characters_without_a_piece_become_bytes_or_one_unknown() {
    let t = Tokenizer::from_gguf(&spm_meta()).unwrap();
    assert_eq!(t.encode("a\n", Special::Plain), [6, 3]);
    assert_eq!(t.encode("axyza", Special::Plain), [6, 0, 5]);
}

#[test]
fn unknown_rules_are_noticed() {
    let t = Tokenizer::from_gguf(&with(bpe_meta(), keys::PRE, "new-rules")).unwrap();
    assert!(t.notice().is_some_and(|n| n.contains("`new-rules`")));
    assert_eq!(Tokenizer::from_gguf(&bpe_meta()).unwrap().notice(), None);
}

#[test]
fn contradictions_are_refused() {
    let cases = [
        (with(bpe_meta(), keys::MODEL, "t5"), "`gpt2` (byte-level BPE) or `llama`"),
        (with(bpe_meta(), keys::TOKENS, Vec::<String>::new()), "found 0 tokens"),
        (with(bpe_meta(), keys::TOKEN_TYPE, vec![1, 2]), "expected 12 elements"),
        (with(bpe_meta(), keys::TOKEN_TYPE, vec![7; 12]), "found 7 at 0"),
        (with(bpe_meta(), keys::TOKEN_TYPE, "x"), "found string"),
        (with(bpe_meta(), keys::BOS, "x"), "expected the id of a token"),
        (with(bpe_meta(), keys::ADD_BOS, 2u32), "expected a bool"),
        (with(spm_meta(), keys::SCORES, vec![0.0f32; 3]), "expected 7 elements"),
        (with(spm_meta(), keys::SCORES, vec![f32::NAN; 7]), "NaN at 0"),
    ];
    for (meta, message) in cases {
        let found = error(&meta);
        assert!(found.contains(message), "expected {message:?} in {found:?}");
    }
    for key in [keys::MODEL, keys::TOKENS, keys::MERGES] {
        let mut meta = bpe_meta();
        meta.remove(key);
        assert!(error(&meta).contains(key), "{}", error(&meta));
    }
    let mut meta = spm_meta();
    meta.remove(keys::SCORES);
    assert!(error(&meta).contains(keys::SCORES));
}

/// What is wrong with a part that is not needed is told, and the rest is used.
#[test]
fn oddities_are_told_and_left_out() {
    let strings = |s: &[&str]| s.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let told = |meta: Metadata, text: &str| {
        let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
        let remarks = meta.take_remarks();
        assert!(remarks.iter().any(|remark| remark.contains(text)), "{text:?} is not in {remarks:?}");
        tokenizer
    };
    assert_eq!(told(with(bpe_meta(), keys::BOS, 12u32), "12 is none of the 12 tokens").bos(), None);
    assert_eq!(told(with(spm_meta(), keys::EOS, 32000u32), "32000 is none").eos(), Some(2), "the default");
    let ids = |meta: Metadata, text| told(meta, keys::MERGES).encode(text, Special::Plain);
    assert_eq!(ids(with(bpe_meta(), keys::MERGES, strings(&["ab", "a b"])), "ab"), [3]);
    // `bb` is no token: it merges on where it can, and is spelled out where it stays.
    let unknown = strings(&["b b", "bb a", "a b", "b b"]);
    assert_eq!(ids(with(bpe_meta(), keys::MERGES, unknown), "abba bb"), [0, 1, 1, 0, 2, 1, 1]);
    let mut meta = bpe_meta();
    meta.remove(keys::TOKEN_TYPE);
    meta.insert(keys::TOKENS, strings(&["a", "b", "Ġ", "ab", "Ġab", "a"]));
    assert_eq!(told(meta, "\"a\" is token 0 and token 5").encode("a", Special::Plain), [5]);
    assert!(told(with(bpe_meta(), keys::ADD_BOS, 1u32), "stored as u32").leading_bos().is_some());
}

#[test]
fn a_file_without_token_types_still_knows_its_marks() {
    let mut meta = spm_meta();
    meta.remove(keys::TOKEN_TYPE);
    let t = Tokenizer::from_gguf(&meta).unwrap();
    assert_eq!(t.encode_with_bos("a\n", Special::Plain), [1, 6, 3]);
    assert_eq!(t.decode(&[1, 6, 3, 2]), b"a\n");
}
