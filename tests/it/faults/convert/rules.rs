//! A tokenizer's rules for spaces and added tokens: GGUF has no keys for them, and the ids are the tokenizer's own all the same.

use std::path::Path;

use curtail::tokenizer::{Special, Tokenizer};
use serde_json::{Value as Json, json};

use super::made::Made;

fn golden() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convert/added.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

/// A checkpoint of one of the golden vocabularies.
fn made(base: &Json, changes: &Json) -> Made {
    let mut made = Made::new();
    made.tokenizer = base.clone();
    for (key, value) in changes.as_object().expect("an object") {
        made.tokenizer[key] = value.clone();
    }
    let of_model = made.tokenizer["model"]["vocab"].as_object().expect("an object").len();
    made.resize(of_model + 2);
    made.tokenizer_config = json!({});
    made.with("bos_token_id", Json::Null).with("eos_token_id", Json::Null)
}

#[test]
fn ids_are_the_tokenizers_own() {
    let golden = golden();
    let texts: Vec<&str> =
        golden["texts"].as_array().expect("a list").iter().map(|t| t.as_str().expect("a text")).collect();
    let cases = golden["cases"].as_array().expect("a list");
    for case in cases {
        let made = made(&golden["bases"][case["base"].as_str().expect("a name")], &case["changes"]);
        let (meta, _) = made.write().converted(&[]);
        let tokenizer = Tokenizer::from_gguf(&meta).expect("a tokenizer");
        for (text, ids) in texts.iter().zip(case["ids"].as_array().expect("a list")) {
            assert_eq!(json!(tokenizer.encode(text, Special::Parse)), *ids, "{}: {text:?}", case["name"]);
        }
    }
    assert!(cases.len() > 60, "{}", cases.len());
}

/// A file needs keys of this program's own only where GGUF's rules are others than the tokenizer's.
#[test]
fn keys_of_our_own_are_written_only_where_they_are_needed() {
    let golden = golden();
    for case in golden["cases"].as_array().expect("a list") {
        let name = case["name"].as_str().expect("a name");
        let made = made(&golden["bases"][case["base"].as_str().expect("a name")], &case["changes"]);
        let (meta, _) = made.write().converted(&[]);
        let own: Vec<&str> = meta.iter().map(|(key, _)| key).filter(|key| key.starts_with("curtail.")).collect();
        // The order in which tokens are looked for matters only to a normalizer, for their texts do not meet.
        let plain = ["never, none", "replace, none", "bytes, none", "normal bytes, none"];
        let in_order = ["never, one normalized", "bytes, one normalized"];
        assert_eq!(own.is_empty(), plain.contains(&name) || in_order.contains(&name), "{name}: {own:?}");
    }
}

#[test]
fn what_a_tokenizer_does_besides_is_said() {
    let golden = golden();
    let base = &golden["bases"]["pieces"];
    let cases = [
        (json!({"normalizer": {"type": "NFKC"}}), "the tokenizer's normalizer `NFKC` is left out"),
        (json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}}), "normalizer `Lowercase`"),
        (json!({"pre_tokenizer": {"type": "Digits", "individual_digits": true}}), "pre-tokenizer `Digits` is left out"),
        (json!({"post_processor": {"type": "BertProcessing"}}), "post-processor `BertProcessing` is left out"),
    ];
    for (changes, said) in cases {
        made(base, &changes).write().converted(&[said]);
    }
    let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let single =
        json!([token("<s>"), token("<|a|>"), {"Sequence": {"id": "A", "type_id": 0}}, token("</s>"), token("<|a|>")]);
    let mut made = made(base, &json!({"post_processor": {"type": "TemplateProcessing", "single": single, "pair": []}}));
    made.tokenizer_config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    made.write().converted(&[
        "\"<|a|>\", which the tokenizer puts before a text too",
        "\"</s>\", which the tokenizer puts behind",
    ]);
}

#[test]
fn models_of_another_kind_are_refused() {
    for (key, value) in [("continuing_subword_prefix", "##"), ("end_of_word_suffix", "</w>")] {
        let mut made = Made::new();
        made.tokenizer["model"][key] = json!(value);
        made.write().refused(&[], &[key, value]);
    }
    let mut made = Made::new();
    made.tokenizer["model"]["dropout"] = json!(0.1);
    made.write().converted(&["`dropout` is left out"]);
}

#[test]
fn the_settings_space_comes_before_the_tokenizers() {
    let mut made = Made::new();
    made.tokenizer_config["add_prefix_space"] = json!(true);
    let (meta, _) = made.write().converted(&[]);
    let tokenizer = Tokenizer::from_gguf(&meta).expect("a tokenizer");
    assert_eq!(tokenizer.encode("a", Special::Parse), tokenizer.encode(" a", Special::Parse));
    assert_eq!(tokenizer.encode("a", Special::Parse).len(), 2);
}
