//! A tiny checkpoint of each architecture, as transformers saves it, converted and run: its file is llama.cpp's, its ids are the
//! tokenizer's, its logits are transformers', its greedy text is that of both.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::common::checkpoint::read_json;
use crate::common::{golden, golden::f32_cache};
use crate::convert::{assert_keys, assert_tensors, fnv};
use curtail::convert::{Options, OutType, Plan};
use curtail::engine::{EngineParams, TokenId};
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::Model;
use curtail::plan::Depth;
use curtail::tokenizer::{Special, Tokenizer};
use serde_json::Value as Json;

const NAMES: [&str; 19] = [
    "mistral",
    "phi4",
    "phi4-longrope",
    "gpt2",
    "gptneox",
    "gptneox-in-turn",
    "phi2",
    "stablelm",
    "stablelm-heads",
    "glm4",
    "command-r",
    "cohere2",
    "internlm2",
    "falcon",
    "falcon-groups",
    "mixtral",
    "qwen3moe",
    "granitemoe",
    "gpt-oss",
];

const TYPES: [(&str, OutType); 4] =
    [("f32", OutType::F32), ("f16", OutType::F16), ("bf16", OutType::Bf16), ("q8_0", OutType::Q8_0)];

fn data(name: &str) -> PathBuf {
    golden::path("arch", name)
}

fn expected(name: &str) -> Json {
    read_json(data(name).join("expected.json"))
}

fn plan(name: &str, outtype: OutType) -> Plan {
    Plan::new(&data(name), &Options { outtype, ..Options::default() }).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A converted file, and the folder that holds it.
fn converted(name: &str, outtype: OutType) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.gguf");
    plan(name, outtype).write(&path, |_| true).unwrap_or_else(|e| panic!("{name}: {e}"));
    (folder, path)
}

fn load(name: &str, outtype: OutType) -> Arc<Model> {
    let (_folder, path) = converted(name, outtype);
    let file = Arc::new(File::open(&path).expect("a GGUF file"));
    let model = Model::load(file, Device::cpu(1).expect("a CPU"));
    Arc::new(model.unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn tokens(json: &Json) -> Vec<TokenId> {
    serde_json::from_value(json.clone()).expect("ids")
}

/// A difference is printed key by key and tensor by tensor before the whole files are compared.
#[test]
fn a_file_is_that_of_llama_cpps_converter() {
    for name in NAMES {
        let expected = expected(name);
        if expected.get("fnv").is_none() {
            continue; // its converter fails: norms by head
        }
        for (type_name, outtype) in TYPES {
            let (_folder, path) = converted(name, outtype);
            let file = File::open(&path).expect("a GGUF file");
            // llama.cpp leaves the window out.
            let ours: &[&str] = if name == "mistral" { &["llama.attention.sliding_window"] } else { &[] };
            if type_name == "f32" {
                assert_keys(name, file.metadata(), &expected["keys"], &expected["keys"]["general.file_type"], ours);
                assert_tensors(name, &file, &expected["tensors"]);
            }
            if ours.is_empty() {
                let bytes = fs::read(&path).expect("the file");
                assert_eq!(fnv(bytes), expected["fnv"][type_name], "{name} {type_name}: the whole file");
            }
        }
    }
}

#[test]
fn converted_tokenizers_give_the_ids_of_the_originals() {
    let corpus = read_json(golden::path("tokenizer", "corpus.json"));
    for name in NAMES {
        let plan = plan(name, OutType::F32);
        let tokenizer = Tokenizer::from_gguf(plan.metadata()).expect("a tokenizer");
        let expected = expected(name);
        let hashes = expected["ids"].as_array().expect("a list");
        assert!(hashes.len() > 40, "{name}");
        for (text, hash) in corpus.as_array().expect("a list").iter().zip(hashes) {
            let text = text.as_str().expect("a text");
            let ids = serde_json::to_string(&tokenizer.encode(text, Special::Parse)).expect("JSON");
            assert_eq!(fnv(ids.bytes()), *hash, "{name}: {text:?}");
        }
    }
}

/// With an f32 cache the order of sums differs, and GELU by tanh, which ggml looks up in a table of f16.
fn tolerance(name: &str) -> f32 {
    if ["gpt2", "phi2"].contains(&name) { 3e-3 } else { 1e-4 }
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in NAMES {
        let (model, tokens) = (load(name, OutType::F32), tokens(&expected(name)["prompt"]));
        let reference = golden::floats(&data(name).join("logits.f32"));
        let n_vocab = model.config().n_vocab;
        let found = golden::logits(&model, &tokens, f32_cache());
        let difference = golden::largest_difference(&found, &reference);
        println!("{name}: largest difference {difference:e}");
        assert!(difference < tolerance(name), "{name}: {difference}");
        let last = &reference[reference.len() - n_vocab..];
        for (n_batch, flash_attn) in [(tokens.len(), false), (7, false), (2, false), (tokens.len(), true)] {
            let params = EngineParams { n_batch, flash_attn: Some(flash_attn), ..f32_cache() };
            let difference = golden::largest_difference(&golden::last_logits(&model, &tokens, params), last);
            // Flash attention reads queries as f16 whatever the cache holds.
            let tolerance = if flash_attn { 2e-2 } else { tolerance(name) };
            assert!(difference < tolerance, "{name}, batches of {n_batch}, {flash_attn}: {difference}");
        }
    }
}

/// Up to the original context the factors are those of short texts.
#[test]
fn a_short_context_has_factors_of_its_own() {
    let name = "phi4-longrope";
    let (model, tokens) = (load(name, OutType::F32), tokens(&expected(name)["prompt"]));
    let reference = golden::floats(&data(name).join("logits-short.f32"));
    let short = &tokens[..reference.len() / model.config().n_vocab];
    let of = |n_ctx| golden::logits(&model, short, EngineParams { n_ctx, ..f32_cache() });
    assert!(golden::largest_difference(&of(32), &reference) < 1e-4);
    assert!(golden::largest_difference(&of(64), &reference) > 0.1, "the two kinds of factors must differ");
}

#[test]
fn layers_in_ranges_give_the_very_same_logits() {
    for name in NAMES {
        let (model, tokens) = (load(name, OutType::F32), tokens(&expected(name)["prompt"]));
        let cuts: Vec<Depth> = (1..model.config().n_layer).map(Depth).collect();
        for params in [f32_cache(), EngineParams::default()] {
            let whole = golden::last_logits(&model, &tokens, params.clone());
            let cut = golden::last_logits(&model, &tokens, EngineParams { cuts: cuts.clone(), ..params });
            assert_eq!(whole, cut, "{name}");
        }
    }
}

/// Those tokens that no other comes near to: transformers', and llama.cpp's on its own file wherever that has no window that it
/// leaves out.
#[test]
fn greedy_text_is_that_of_transformers() {
    for name in NAMES {
        let expected = expected(name);
        let (prompt, text) = (tokens(&expected["prompt"]), tokens(&expected["text"]));
        let model = load(name, OutType::F32);
        let mut all = prompt.clone();
        for (i, &token) in text.iter().enumerate() {
            let logits = golden::last_logits(&model, &all, EngineParams::default());
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a token");
            assert_eq!(best as TokenId, token, "{name}: token {i}");
            all.push(token);
        }
        println!("{name}: {} tokens", text.len());
    }
}
