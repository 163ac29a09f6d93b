//! Mutated files through reader, tokenizer and chat template together: what a hostile vocabulary can reach, and
//! arbitrary text after it. An answer or an error, never a panic.

use std::path::Path;

use crate::Turn;
use crate::common::fuzz;
use crate::common::raw::Raw;
use curtail::gguf::Header;
use curtail::tokenizer::{ChatTemplate, Special, Tokenizer};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

#[test]
fn mutated_vocabularies_never_panic() {
    let _turn = Turn::take();
    let outcomes = fuzz::run("gguf and tokenizer", 40_000, &[byte_level(), sentence_piece()], outcome);
    let inputs: u64 = outcomes.values().sum();
    let encoded = outcomes.get("encoded").copied().unwrap_or(0);
    assert!(encoded > inputs / 20, "the mutations must leave usable vocabularies: {encoded} of {inputs}");
}

fn outcome(bytes: &[u8], rng: &mut ChaCha8Rng) -> String {
    let Ok(header) = Header::parse(Path::new("f"), bytes) else { return "refused by the reader".into() };
    if let Ok(Some(template)) = ChatTemplate::from_gguf(&header.metadata) {
        // Any answer is fine; a panic is not.
        let _ = template.render(&[], true);
    }
    let Ok(tokenizer) = Tokenizer::from_gguf(&header.metadata) else { return "refused by the tokenizer".into() };
    let text = random_text(rng);
    for special in [Special::Parse, Special::Plain] {
        let ids = tokenizer.encode_with_bos(&text, special);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()), "{text:?} gave {ids:?}");
        let mut stream = tokenizer.stream();
        let streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        assert_eq!(streamed + &stream.finish(), String::from_utf8_lossy(&tokenizer.decode(&ids)), "{ids:?}");
    }
    "encoded".into()
}

/// Bytes and pieces of the vocabulary, mended into text as a command mends its input.
fn random_text(rng: &mut ChaCha8Rng) -> String {
    const PIECES: [&str; 8] = ["a", "ab", " ", "<s>", "</s>", "\u{2581}", "\u{e9}", "\n"];
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(0..12) {
        match rng.random_range(0..3) {
            0 => bytes.push(rng.random()),
            _ => bytes.extend(PIECES[rng.random_range(0..PIECES.len())].bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn byte_level() -> Raw {
    let raw = vocabulary(
        "gpt2",
        &["<s>", "</s>", "a", "b", "ab", "\u{120}", "\u{120}a", "\u{10a}"],
        &[3, 3, 1, 1, 1, 1, 4, 1],
    );
    strings(raw.key("tokenizer.ggml.pre", 8).str("smollm"), "tokenizer.ggml.merges", &["a b", "\u{120} a"])
}

fn sentence_piece() -> Raw {
    let pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "\u{2581}", "a", "\u{2581}a", "b"];
    let raw = vocabulary("llama", &pieces, &[2, 3, 3, 6, 1, 1, 4, 1]);
    let raw = raw.key("tokenizer.ggml.scores", 9).u32(6).u64(8);
    (0..8u8)
        .fold(raw, |raw, i| raw.bytes(&(-f32::from(i)).to_le_bytes()))
        .pair_u32("tokenizer.ggml.unknown_token_id", 0)
}

/// Eight pairs: six here, two up to the caller.
fn vocabulary(model: &str, tokens: &[&str], types: &[u32]) -> Raw {
    let raw = Raw::header(0, 8).key("tokenizer.ggml.model", 8).str(model);
    let raw = strings(raw, "tokenizer.ggml.tokens", tokens);
    let raw = raw.key("tokenizer.chat_template", 8).str("{% for m in messages %}{{ m.content }}{% endfor %}x");
    let raw = raw.key("tokenizer.ggml.token_type", 9).u32(5).u64(types.len() as u64);
    let raw = types.iter().fold(raw, |raw, &t| raw.u32(t));
    raw.pair_u32("tokenizer.ggml.bos_token_id", 1).key("tokenizer.ggml.add_bos_token", 7).bytes(&[1])
}

fn strings(raw: Raw, key: &str, texts: &[&str]) -> Raw {
    let raw = raw.key(key, 9).u32(8).u64(texts.len() as u64);
    texts.iter().fold(raw, |raw, text| raw.str(text))
}
