//! Owns the comparison of token ids and rendered conversations with those of Hugging Face tokenizers, sentencepiece
//! and jinja2 (`make_tokenizer_golden.py`). Refuses to pass where a golden file or the demo model is missing.

use std::path::Path;

use curtail::gguf::{File, Metadata};
use curtail::tokenizer::{ChatTemplate, Message, Special, TokenId, Tokenizer};
use serde_json::Value;

const MODEL: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e} in {value}"))
}

fn corpus() -> Vec<String> {
    list(&golden("corpus.json"))
}

fn bpe(golden: &Value, pre: &str) -> Tokenizer {
    let mut meta = Metadata::new();
    meta.insert("tokenizer.ggml.model", "gpt2");
    meta.insert("tokenizer.ggml.pre", pre);
    meta.insert("tokenizer.ggml.tokens", list::<String>(&golden["tokens"]));
    meta.insert("tokenizer.ggml.token_type", list::<i32>(&golden["token_type"]));
    meta.insert("tokenizer.ggml.merges", list::<String>(&golden["merges"]));
    Tokenizer::from_gguf(&meta).unwrap()
}

fn spm(golden: &Value) -> Tokenizer {
    let mut meta = Metadata::new();
    meta.insert("tokenizer.ggml.model", "llama");
    meta.insert("tokenizer.ggml.tokens", list::<String>(&golden["tokens"]));
    meta.insert("tokenizer.ggml.token_type", list::<i32>(&golden["token_type"]));
    meta.insert("tokenizer.ggml.scores", list::<f32>(&golden["scores"]));
    meta.insert("tokenizer.ggml.add_space_prefix", golden["add_space_prefix"].as_bool().unwrap());
    Tokenizer::from_gguf(&meta).unwrap()
}

/// Every difference, with what each side makes of the text.
fn differences(what: &str, tokenizer: &Tokenizer, special: Special, expected: &Value) -> Vec<String> {
    let expected: Vec<Vec<TokenId>> = list(expected);
    let texts = corpus();
    assert_eq!(texts.len(), expected.len(), "{what}: the golden files do not belong together");
    let spell = |ids: &[TokenId]| ids.iter().map(|&id| tokenizer.token_text(id)).collect::<Vec<_>>().join("|");
    let differs = texts.iter().zip(&expected).filter_map(|(text, expected)| {
        let found = tokenizer.encode(text, special);
        (found != *expected)
            .then(|| format!("{what}: {text:?}\n  expected {}\n  found    {}", spell(expected), spell(&found)))
    });
    differs.collect()
}

fn assert_none(differences: Vec<String>) {
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

fn demo_model() -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    File::open(&path).unwrap_or_else(|e| panic!("{e}\nhint: `make model` fetches it"))
}

#[test]
fn bpe_ids_are_those_of_hugging_face_for_every_splitting_rule() {
    let golden = golden("bpe.json");
    let rules = golden["ids"].as_object().unwrap();
    let differ = |(name, ids): (&String, &Value)| differences(name, &bpe(&golden, name), Special::Parse, ids);
    assert_none(rules.iter().flat_map(differ).collect());
}

#[test]
fn bpe_decodes_what_it_encodes() {
    let golden = golden("bpe.json");
    for text in corpus() {
        let tokenizer = bpe(&golden, "llama-bpe");
        let ids = tokenizer.encode(&text, Special::Plain);
        assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&ids)), text);
    }
}

#[test]
fn spm_ids_are_those_of_sentencepiece() {
    for (name, golden) in golden("spm.json").as_object().unwrap() {
        assert_none(differences(name, &spm(golden), Special::Plain, &golden["plain"]));
    }
}

#[test]
fn spm_special_tokens_are_those_of_hugging_face() {
    let golden = &golden("spm.json")["llama"];
    assert_none(differences("llama", &spm(golden), Special::Parse, &golden["parsed"]));
}

#[test]
fn spm_text_is_that_of_sentencepiece() {
    for name in ["llama", "gemma", "unused"] {
        let golden = &golden("spm.json")[name];
        let tokenizer = spm(golden);
        for (ids, text) in list::<Vec<TokenId>>(&golden["plain"]).iter().zip(list::<String>(&golden["decoded"])) {
            assert_eq!(String::from_utf8_lossy(&tokenizer.decode(ids)), text, "{name}");
            let mut stream = tokenizer.stream();
            let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
            streamed.push_str(&stream.finish());
            assert_eq!(streamed, text, "{name}, streamed");
        }
    }
}

#[test]
fn the_demo_models_ids_are_those_of_hugging_face() {
    let tokenizer = Tokenizer::from_gguf(demo_model().metadata()).unwrap();
    assert_none(differences("SmolLM2", &tokenizer, Special::Parse, &golden("smollm2.json")["ids"]));
    assert_eq!(tokenizer.notice(), None);
    assert!(tokenizer.is_end_of_generation(2), "<|im_end|>");
}

#[test]
fn the_demo_models_template_renders_as_in_jinja() {
    let template = ChatTemplate::from_gguf(demo_model().metadata()).unwrap().expect("the model has a template");
    check_rendered("SmolLM2", &template, &golden("smollm2.json")["rendered"]);
}

#[test]
fn templates_render_as_in_jinja() {
    for (name, golden) in golden("chat.json")["templates"].as_object().unwrap() {
        let template = ChatTemplate::new(golden["source"].as_str().unwrap(), Some("<s>"), Some("</s>"));
        check_rendered(name, &template.unwrap(), &golden["rendered"]);
    }
}

/// A rendering that raises an error does so with the same message.
fn check_rendered(name: &str, template: &ChatTemplate, expected: &Value) {
    let conversations: Vec<Vec<Message>> = list(&golden("chat.json")["conversations"]);
    for (messages, expected) in conversations.iter().zip(list::<Value>(expected)) {
        match (template.render(messages, true), expected["error"].as_str()) {
            (Ok(text), None) => assert_eq!(Some(text.as_str()), expected.as_str(), "{name}"),
            (Err(error), Some(message)) => assert!(error.to_string().contains(message), "{name}: {error}"),
            (result, _) => panic!("{name}: expected {expected}, found {result:?}"),
        }
    }
}
