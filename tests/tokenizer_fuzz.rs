//! Owns the proof that no text and no metadata makes the tokenizers panic: a short seeded form runs with the tests,
//! `TOKENIZER_FUZZ_ROUNDS=10000000` gives a long one. Refuses to judge ids.

use curtail::gguf::{Array, Metadata, Value};
use curtail::tokenizer::{ChatTemplate, Special, Tokenizer};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WORDS: [&str; 16] =
    ["a", "ab", " ", "\n", "  ", "<s>", "</s>", "<t>", "\u{2581}", "é", "日", "\u{301}", "😀", "'s", "12", "\0"];

fn rounds() -> u64 {
    std::env::var("TOKENIZER_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn metadata(spm: bool) -> Metadata {
    let tokens =
        ["<unk>", "<s>", "</s>", "<0x0A>", "\u{2581}", "a", "\u{2581}a", "<t>", "b", "ab", "Ġ", "Ġa", "Ã", "©"];
    let types = vec![2, 3, 3, 6, 1, 1, 1, 4, 1, 5, 1, 1, 1, 1];
    let mut meta = Metadata::new();
    meta.insert("tokenizer.ggml.model", if spm { "llama" } else { "gpt2" });
    meta.insert("tokenizer.ggml.pre", "llama-bpe");
    meta.insert("tokenizer.ggml.tokens", tokens.map(String::from).to_vec());
    meta.insert("tokenizer.ggml.token_type", types);
    meta.insert("tokenizer.ggml.scores", (0..tokens.len()).map(|i| -(i as f32)).collect::<Vec<_>>());
    meta.insert("tokenizer.ggml.merges", ["a b", "Ġ a"].map(String::from).to_vec());
    meta.insert("tokenizer.ggml.bos_token_id", 1u32);
    meta.insert("tokenizer.ggml.eos_token_id", 2u32);
    meta.insert("tokenizer.ggml.add_bos_token", true);
    meta.insert("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    meta
}

fn text(rng: &mut ChaCha8Rng) -> String {
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(0..12) {
        match rng.random_range(0..3) {
            0 => bytes.push(rng.random()),
            _ => bytes.extend(WORDS[rng.random_range(0..WORDS.len())].bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes, decodes and streams a text; joined, the stream is the decoded text.
fn exercise(tokenizer: &Tokenizer, text: &str, rng: &mut ChaCha8Rng) {
    for special in [Special::Parse, Special::Plain] {
        let mut ids = tokenizer.encode_with_bos(text, special);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()), "{text:?} gave {ids:?}");
        ids.push(rng.next_u32() % 20);
        let mut stream = tokenizer.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, String::from_utf8_lossy(&tokenizer.decode(&ids)), "{ids:?}");
    }
}

/// Changes one value: another type, an element more, less or other.
fn mutate(meta: &mut Metadata, rng: &mut ChaCha8Rng) {
    let keys: Vec<String> = meta.iter().map(|(key, _)| key.to_owned()).collect();
    let key = &keys[rng.random_range(0..keys.len())];
    let value = match meta.get(key).cloned() {
        _ if rng.random_range(0..8) == 0 => any_value(rng),
        Some(Value::Array(Array::String(mut a))) => {
            change(&mut a, text(rng), rng);
            Value::from(a)
        }
        Some(Value::Array(Array::I32(mut a))) => {
            change(&mut a, rng.random_range(-1..8), rng);
            Value::from(a)
        }
        Some(Value::Array(Array::F32(mut a))) => {
            change(&mut a, f32::from_bits(rng.random()), rng);
            Value::from(a)
        }
        Some(Value::String(_)) => Value::from(text(rng)),
        _ => Value::from(rng.random_range(0..20u32)),
    };
    meta.insert(key.clone(), value);
}

fn change<T>(items: &mut Vec<T>, new: T, rng: &mut ChaCha8Rng) {
    match rng.random_range(0..4) {
        0 => items.push(new),
        1 => drop(items.pop()),
        _ if items.is_empty() => {}
        _ => {
            let i = rng.random_range(0..items.len());
            items[i] = new;
        }
    }
}

fn any_value(rng: &mut ChaCha8Rng) -> Value {
    match rng.random_range(0..5) {
        0 => Value::from(rng.random::<u64>()),
        1 => Value::from(rng.random::<i8>()),
        2 => Value::from(text(rng)),
        3 => Value::from(Vec::<String>::new()),
        _ => Value::from(rng.random::<bool>()),
    }
}

#[test]
fn no_text_makes_a_tokenizer_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let tokenizers = [false, true].map(|spm| Tokenizer::from_gguf(&metadata(spm)).unwrap());
    for _ in 0..rounds() {
        let text = text(&mut rng);
        tokenizers.iter().for_each(|t| exercise(t, &text, &mut rng));
    }
}

#[test]
fn no_metadata_makes_a_tokenizer_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Compiling the splitting rules takes most of a round.
    for round in 0..rounds() / 100 {
        let mut meta = metadata(round % 2 == 0);
        (0..rng.random_range(1..4)).for_each(|_| mutate(&mut meta, &mut rng));
        if let Ok(tokenizer) = Tokenizer::from_gguf(&meta) {
            let text = text(&mut rng);
            exercise(&tokenizer, &text, &mut rng);
        }
        if let Ok(Some(template)) = ChatTemplate::from_gguf(&meta) {
            // Any answer is fine; a panic is not.
            let _ = template.render(&[], true);
        }
    }
}
