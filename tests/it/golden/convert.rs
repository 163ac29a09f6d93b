//! Checkpoints as Hugging Face transformers saves them, converted and compared: with the files that llama.cpp's converter
//! makes of them, with the ids of their own tokenizers, with transformers' logits.

use std::fs;
use std::sync::Arc;

use crate::common::checkpoint::{data, read_json, safetensors, take_apart, variant};
use crate::common::{curtail, golden};
use curtail::convert::{Options, OutType, Plan};
use curtail::dtype::DType;
use curtail::engine::TokenId;
use curtail::ggml::Device;
use curtail::gguf::{Array, File, Metadata, TensorInfo, Value};
use curtail::model::Model;
use curtail::tokenizer::{Special, Tokenizer};
use serde_json::{Value as Json, json};

const LLAMAS: [&str; 4] = ["llama-spm", "llama-bpe", "llama-bin", "llama-hf"];
/// One of each other architecture that runs here and that llama.cpp has.
const OTHERS: [&str; 9] =
    ["qwen2", "qwen3", "gemma2", "gemma3", "gemma3-images", "smollm3", "granite", "olmo2", "starcoder2"];
const OPTS: [&str; 3] = ["opt-prenorm", "opt-350m-like", "opt-galactica-like"];
const TYPES: [(&str, OutType); 5] = [
    ("f32", OutType::F32),
    ("f16", OutType::F16),
    ("bf16", OutType::Bf16),
    ("q8_0", OutType::Q8_0),
    ("auto", OutType::Auto),
];

fn options(outtype: OutType) -> Options {
    Options { outtype, ..Options::default() }
}

/// FNV-1a, 64 bits, as the script that made the golden files has it.
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> String {
    let mix = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// A converted file, and the folder that holds it.
fn converted(name: &str, outtype: OutType) -> (tempfile::TempDir, File) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.gguf");
    let plan = Plan::new(&data(name), &options(outtype)).unwrap_or_else(|e| panic!("{name}: {e}"));
    plan.write(&path, |_| true).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = File::open(&path).expect("a GGUF file");
    (folder, file)
}

/// A value as the golden file has it: type and content, long lists as length and hash.
fn shown(value: &Value) -> Json {
    let scalar = |v: &Value| match v {
        Value::U32(n) => json!(n),
        Value::I32(n) => json!(n),
        Value::F32(x) => json!(f64::from(*x)),
        Value::Bool(b) => json!(b),
        Value::String(s) => json!(s),
        other => panic!("no file has {other:?}"),
    };
    let kind = |t: curtail::gguf::ValueType| {
        match t.name() {
            "u32" => "uint32",
            "i32" => "int32",
            "f32" => "float32",
            other => other,
        }
        .to_owned()
    };
    let Value::Array(array) = value else { return json!([kind(value.value_type()), scalar(value)]) };
    let kind = format!("array/{}", kind(array.element_type()));
    let items: Vec<Value> = (0..array.len()).filter_map(|i| array.get(i)).collect();
    if items.len() <= 8 {
        return json!([kind, items.iter().map(scalar).collect::<Vec<_>>()]);
    }
    let line = |item: &Value| match item {
        Value::String(s) => format!("{s}\n"),
        Value::I32(n) => format!("{n}\n"),
        // Python writes what is needed of the f64, with a point.
        Value::F32(x) => format!("{:?}\n", f64::from(*x)),
        other => panic!("no file has a list of {other:?}"),
    };
    json!([kind, items.len(), fnv(items.iter().flat_map(|item| line(item).into_bytes()))])
}

/// The difference is printed key by key and tensor by tensor before the whole files are compared.
#[test]
fn a_file_is_that_of_llama_cpps_converter() {
    for name in LLAMAS.into_iter().chain(OTHERS) {
        let expected = read_json(data(name).join("expected.json"));
        for (type_name, outtype) in TYPES {
            let (folder, file) = converted(name, outtype);
            let of_type = &expected[type_name];
            let ours: &[&str] = if name == "starcoder2" { &["starcoder2.attention.sliding_window"] } else { &[] };
            assert_keys(name, file.metadata(), &expected["keys"], &of_type["file_type"], ours);
            assert_tensors(&format!("{name} {type_name}"), &file, &of_type["tensors"]);
            // The vocabulary of the one differs on purpose: see below. The other's window has no key there.
            if !["llama-hf", "starcoder2"].contains(&name) {
                let bytes = fs::read(folder.path().join("out.gguf")).expect("the file");
                assert_eq!(fnv(bytes), of_type["fnv"], "{name} {type_name}: the whole file");
            }
        }
    }
}

/// `ours`: keys that llama.cpp's file has not.
pub(crate) fn assert_keys(name: &str, meta: &Metadata, expected: &Json, file_type: &Json, ours: &[&str]) {
    let expected = expected.as_object().expect("an object");
    let found: Vec<&str> = meta.iter().map(|(key, _)| key).collect();
    let wanted: Vec<&str> = expected.keys().map(String::as_str).collect();
    for key in &wanted {
        let value = meta.get(key).unwrap_or_else(|| panic!("{name}: no `{key}`"));
        match *key {
            "general.file_type" => assert_eq!(shown(value), *file_type, "{name}: `{key}`"),
            // llama.cpp gives all tokens one score, which makes other ids than the merges do; and it leaves the rows that
            // have no token without one, which its own loader then refuses.
            "tokenizer.ggml.tokens" | "tokenizer.ggml.scores" | "tokenizer.ggml.token_type" if name == "llama-hf" => {}
            _ => assert_eq!(shown(value), expected[*key], "{name}: `{key}`"),
        }
    }
    let known = |key: &str| wanted.contains(&key) || key == "general.file_type" || ours.contains(&key);
    let besides: Vec<_> = found.iter().filter(|key| !known(key)).collect();
    assert!(besides.is_empty(), "{name}: besides {besides:?}");
}

pub(crate) fn assert_tensors(name: &str, file: &File, expected: &Json) {
    let describe = |t: &TensorInfo| json!([t.name, t.dtype.name(), t.dims(), fnv(file.data(t).iter().copied())]);
    let found: Vec<Json> = file.tensors().iter().map(describe).collect();
    let expected = expected.as_array().expect("a list");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(found.len(), expected.len(), "{name}");
}

#[test]
fn converted_tokenizers_give_the_ids_of_the_originals() {
    let corpus = read_json(data("../tokenizer/corpus.json"));
    let corpus: Vec<&str> = corpus.as_array().expect("a list").iter().map(|t| t.as_str().expect("a text")).collect();
    for name in LLAMAS.into_iter().chain(OTHERS) {
        let plan = Plan::new(&data(name), &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tokenizer = Tokenizer::from_gguf(plan.metadata()).expect("a tokenizer");
        let golden = read_json(data(name).join("ids.json"));
        let golden = golden.as_array().expect("a list");
        // SentencePiece has no notion of special tokens in texts: its golden ids are of the texts without.
        let texts: Vec<&str> = corpus.iter().copied().filter(|t| name != "llama-hf" || !t.is_empty()).collect();
        assert!(golden.len() > 40 && golden.len() <= texts.len(), "{name}: {} of {}", golden.len(), texts.len());
        for (text, ids) in texts.iter().zip(golden) {
            assert_eq!(json!(tokenizer.encode(text, Special::Parse)), *ids, "{name}: {text:?}");
        }
    }
}

/// A window of all layers is a key of the file, unless it is as long as any text.
#[test]
fn a_window_of_all_layers_is_kept() {
    let window = |changes: Json| {
        let change =
            |config: &mut serde_json::Map<_, _>| config.extend(changes.as_object().expect("an object").clone());
        let (keys, notices) = keys_after("starcoder2", change);
        assert_eq!(notices, [] as [String; 0]);
        keys.into_iter().find(|(key, _)| key == "starcoder2.attention.sliding_window").map(|(_, value)| value)
    };
    assert_eq!(window(json!({})), Some(Value::U32(8)));
    assert_eq!(window(json!({"sliding_window": null})), None);
    assert_eq!(window(json!({"sliding_window": 64})), None);
}

/// Gemma's repositories have both forms, fine-tuned ones often one.
#[test]
fn either_form_of_a_gemmas_tokenizer_gives_the_same_ids() {
    let corpus = read_json(data("../tokenizer/corpus.json"));
    let golden = read_json(data("gemma3").join("ids.json"));
    for gone in ["tokenizer.model", "tokenizer.json"] {
        let folder = variant("gemma3", |files| fs::remove_file(files.folder.join(gone)).expect("it is there"));
        let plan = Plan::new(folder.path(), &Options::default()).unwrap_or_else(|e| panic!("without {gone}: {e}"));
        let meta = plan.metadata();
        assert_eq!(meta.str("tokenizer.ggml.model").expect("a string"), Some("llama"));
        assert_eq!(meta.bool("tokenizer.ggml.add_space_prefix").expect("a bool"), Some(false));
        assert_eq!(plan.notices(), &[] as &[String], "without {gone}");
        let tokenizer = Tokenizer::from_gguf(meta).expect("a tokenizer");
        for (text, ids) in corpus.as_array().expect("a list").iter().zip(golden.as_array().expect("a list")) {
            let text = text.as_str().expect("a text");
            assert_eq!(json!(tokenizer.encode(text, Special::Parse)), *ids, "without {gone}: {text:?}");
        }
    }
}

/// Tensors of a text model beside others have been named in two ways.
#[test]
fn a_text_model_is_found_by_both_names() {
    let folder = variant("gemma3-images", |files| {
        let renamed = |name: &str| name.replace("language_model.model.", "model.language_model.");
        let index = files.entry("model.safetensors.index.json");
        let map = index["weight_map"].as_object().expect("an object");
        let map: serde_json::Map<_, _> = map.iter().map(|(name, file)| (renamed(name), file.clone())).collect();
        index["weight_map"] = Json::Object(map);
        for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            let path = files.folder.join(shard);
            let (header, all) = take_apart(&fs::read(&path).expect("weights"));
            let header = header.as_object().expect("an object").iter();
            let header: serde_json::Map<_, _> = header.map(|(name, entry)| (renamed(name), entry.clone())).collect();
            fs::write(&path, safetensors(&Json::Object(header), &all)).expect("it can be written");
        }
    });
    let plans =
        [folder.path(), &data("gemma3-images")].map(|path| Plan::new(path, &Options::default()).expect("a plan"));
    let [new, old] = plans.each_ref().map(|plan| plan.tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>());
    assert_eq!((new.len(), new), (28, old));
    assert_eq!(plans[0].notices(), ["the encoder of images is left out: the file is the text model"]);
}

#[test]
fn all_tokens_that_end_a_generation_do() {
    for name in ["qwen2", "qwen3", "gemma2", "gemma3", "gemma3-images"] {
        let plan = Plan::new(&data(name), &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tokenizer = Tokenizer::from_gguf(plan.metadata()).expect("a tokenizer");
        let settings = read_json(data(name).join("generation_config.json"));
        let ends: Vec<TokenId> = serde_json::from_value(settings["eos_token_id"].clone()).expect("a list of ids");
        assert_eq!(ends.len(), 2, "{name}");
        assert!(ends.iter().all(|&id| tokenizer.is_end_of_generation(id)), "{name}: {ends:?}");
    }
}

/// The keys of an architecture that a checkpoint gives after a change.
fn keys_after(
    name: &str,
    change: impl FnOnce(&mut serde_json::Map<String, Json>),
) -> (Vec<(String, Value)>, Vec<String>) {
    let folder = variant(name, |files| change(files.entry("config.json").as_object_mut().expect("an object")));
    let plan = Plan::new(folder.path(), &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let keys = plan.metadata().iter().filter(|(key, _)| key.starts_with(name));
    (keys.map(|(key, value)| (key.to_owned(), value.clone())).collect(), plan.notices().to_vec())
}

#[test]
fn old_configurations_say_the_same_as_new_ones() {
    let (new, _) = keys_after("gemma3", |_| {});
    let (old, notices) = keys_after("gemma3", |config| {
        for key in ["rope_parameters", "layer_types", "_sliding_window_pattern"] {
            assert!(config.remove(key).is_some(), "{key}");
        }
        config.insert("rope_theta".into(), json!(1e6));
        config.insert("rope_local_base_freq".into(), json!(1e4));
        config.insert("rope_scaling".into(), json!({"factor": 8.0, "rope_type": "linear"}));
        config.insert("sliding_window_pattern".into(), json!(6));
    });
    assert_eq!((old, notices), (new, vec![]));
    let (new, _) = keys_after("qwen3", |_| {});
    let (old, notices) = keys_after("qwen3", |config| {
        config.remove("rope_parameters");
        config.insert("rope_theta".into(), json!(1e5));
        config.insert(
            "rope_scaling".into(),
            json!({"factor": 4.0, "type": "yarn", "original_max_position_embeddings": 16}),
        );
    });
    assert_eq!((old, notices), (new, vec![]));
}

#[test]
fn a_window_that_gguf_lacks_is_said() {
    let said = |name: &str, changes: Json| {
        let change = |config: &mut serde_json::Map<_, _>| {
            config.remove("layer_types");
            config.extend(changes.as_object().expect("an object").clone());
        };
        keys_after(name, change).1.join("\n")
    };
    let window = "the sliding window of 8 tokens is left out, GGUF's `qwen2` has none";
    let used = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    assert!(said("qwen2", used.clone()).contains(window), "{}", said("qwen2", used));
    for unused in [
        json!({"use_sliding_window": false, "sliding_window": 8, "max_window_layers": 1}),
        json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2}),
        json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 1}),
        json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 1}),
    ] {
        assert_eq!(said("qwen2", unused.clone()), "", "{unused}");
    }
}

/// The splitting rules of each known kind of model, read from its `tokenizer.json`, give the ids of that model.
#[test]
fn rules_are_named_so_that_ids_are_right() {
    let rules = read_json(data("pre.json"));
    let golden = read_json(data("../tokenizer/bpe.json"));
    let corpus = read_json(data("../tokenizer/corpus.json"));
    let strings = |value: &Json| {
        value.as_array().expect("a list").iter().map(|t| t.as_str().expect("a text").to_owned()).collect()
    };
    let (tokens, merges): (Vec<String>, Vec<String>) = (strings(&golden["tokens"]), strings(&golden["merges"]));
    let kinds = golden["token_type"].as_array().expect("a list");
    let mut named = 0;
    for (name, parts) in rules.as_object().expect("an object") {
        let folder = variant("llama-bpe", |files| {
            let tokenizer = files.entry("tokenizer.json");
            let (plain, added): (Vec<usize>, Vec<usize>) = (0..tokens.len()).partition(|&i| kinds[i] == 1);
            let vocab: serde_json::Map<_, _> = plain.iter().map(|&i| (tokens[i].clone(), json!(i))).collect();
            let added = added.iter().map(|&i| json!({"id": i, "content": tokens[i], "special": kinds[i] == 3}));
            let added: Vec<Json> = added.collect();
            *tokenizer = json!({
                "normalizer": parts["normalizer"], "pre_tokenizer": parts["pre_tokenizer"], "added_tokens": added,
                "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": parts["model"]["ignore_merges"]},
            });
            files.resize_vocabulary(tokens.len());
        });
        let plan = Plan::new(folder.path(), &Options::default());
        if name == "default" {
            let error = plan.expect_err("no model has these rules").to_string();
            assert!(
                error.contains("`pre_tokenizer`: expected rules that GGUF has a name for")
                    && error.contains("--pre NAME"),
                "{error}"
            );
            continue;
        }
        let plan = plan.unwrap_or_else(|e| panic!("{name}: {e}"));
        let tokenizer = Tokenizer::from_gguf(plan.metadata()).expect("a tokenizer");
        for (text, ids) in
            corpus.as_array().expect("a list").iter().zip(golden["ids"][name].as_array().expect("a list"))
        {
            let text = text.as_str().expect("a text");
            assert_eq!(json!(tokenizer.encode(text, Special::Parse)), *ids, "{name}: {text:?}");
        }
        named += 1;
    }
    assert!(named >= 14, "{named}");
}

/// Of OPT llama.cpp knows nothing: the numbers are compared with the checkpoint's own, by what GGUF's names mean.
#[test]
fn an_opt_has_its_names_and_shapes() {
    for name in OPTS {
        let (_folder, file) = converted(name, OutType::F16);
        let meta = file.metadata();
        let narrow = name == "opt-350m-like";
        let n_proj = if narrow { 16 } else { 32 };
        assert_eq!(meta.get("general.architecture"), Some(&Value::String("opt".into())));
        for (key, expected) in [
            ("context_length", 64),
            ("embedding_length", 32),
            ("word_embed_proj_dim", n_proj),
            ("block_count", 3),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 4),
            ("vocab_size", 305),
        ] {
            assert_eq!(meta.get(&format!("opt.{key}")), Some(&Value::U32(expected)), "{name}: {key}");
        }
        assert_eq!(meta.get("opt.attention.layer_norm_epsilon"), Some(&Value::F32(1e-5)));
        assert_eq!(meta.get("opt.do_layer_norm_before"), Some(&Value::Bool(!narrow)));
        let activation = if name == "opt-galactica-like" { "gelu" } else { "relu" };
        assert_eq!(meta.get("opt.activation"), Some(&Value::String(activation.into())));
        assert_shapes(name, &file, n_proj as usize);
    }
}

fn assert_shapes(name: &str, file: &File, n_proj: usize) {
    let mut expected = vec![
        ("token_embd.weight".to_owned(), vec![n_proj, 305], DType::F16),
        ("position_embd.weight".into(), vec![32, 64], DType::F32),
    ];
    if n_proj == 16 {
        expected.push(("token_embd_proj_in.weight".into(), vec![16, 32], DType::F16));
        expected.push(("token_embd_proj_out.weight".into(), vec![32, 16], DType::F16));
    } else {
        expected.extend(["weight", "bias"].map(|part| (format!("output_norm.{part}"), vec![32], DType::F32)));
    }
    let biases = name != "opt-galactica-like";
    for il in 0..3 {
        for norm in ["attn_norm", "ffn_norm"] {
            expected.extend(["weight", "bias"].map(|part| (format!("blk.{il}.{norm}.{part}"), vec![32], DType::F32)));
        }
        for (linear, dims) in [
            ("attn_q", [32, 32]),
            ("attn_k", [32, 32]),
            ("attn_v", [32, 32]),
            ("attn_output", [32, 32]),
            ("ffn_up", [32, 64]),
            ("ffn_down", [64, 32]),
        ] {
            expected.push((format!("blk.{il}.{linear}.weight"), dims.to_vec(), DType::F16));
            if biases {
                expected.push((format!("blk.{il}.{linear}.bias"), vec![dims[1]], DType::F32));
            }
        }
    }
    for (tensor, dims, dtype) in &expected {
        let found = file.tensor(tensor).unwrap_or_else(|| panic!("{name}: no `{tensor}`"));
        assert_eq!((found.dims(), found.dtype), (dims.as_slice(), *dtype), "{name}: {tensor}");
    }
    assert_eq!(file.tensors().len(), expected.len(), "{name}");
}

#[test]
fn an_opt_has_the_roles_of_its_tokenizer() {
    for name in OPTS {
        let plan = Plan::new(&data(name), &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let meta = plan.metadata();
        let galactica = name == "opt-galactica-like";
        let id = |role: &str| meta.u32(&format!("tokenizer.ggml.{role}_token_id")).expect("an id");
        assert_eq!(
            [id("bos"), id("eos"), id("padding")],
            [Some(if galactica { 0 } else { 2 }), Some(2), Some(1)],
            "{name}"
        );
        // Galactica's tokenizer adds none; GPT-2's two files leave it to transformers, which does.
        assert_eq!(meta.bool("tokenizer.ggml.add_bos_token").expect("a bool"), Some(!galactica), "{name}");
        let pre = if galactica { "smollm" } else { "gpt-2" };
        assert_eq!(meta.str("tokenizer.ggml.pre").expect("a string"), Some(pre), "{name}");
        let tokens = meta.strings("tokenizer.ggml.tokens").expect("a list").expect("a list");
        assert_eq!((tokens.len(), tokens[304].as_str()), (305, "[PAD304]"), "{name}");
        let Some(Value::Array(Array::I32(kinds))) = meta.get("tokenizer.ggml.token_type") else { panic!("{name}") };
        assert_eq!((kinds[2], kinds[10], kinds[304]), (3, 1, 5), "{name}");
    }
}

/// The numbers of a file equal those of the checkpoint's own file, row by row where rows move.
#[test]
fn rows_of_an_opt_are_the_checkpoints() {
    let folder = data("opt-350m-like");
    let (header, all) = take_apart(&fs::read(folder.join("model.safetensors")).expect("weights"));
    let stored = |name: &str| {
        let offset = |i: usize| header[name]["data_offsets"][i].as_u64().expect("an offset") as usize;
        &all[offset(0)..offset(1)]
    };
    let (_folder, file) = converted("opt-350m-like", OutType::F16);
    let written = |name: &str| file.data(file.tensor(name).expect("a tensor"));
    assert_eq!(written("blk.1.attn_q.weight"), stored("model.decoder.layers.1.self_attn.q_proj.weight"));
    assert_eq!(written("token_embd_proj_in.weight"), stored("model.decoder.project_in.weight"));
    let positions: Vec<u8> = stored("model.decoder.embed_positions.weight")[2 * 32 * 2..]
        .as_chunks()
        .0
        .iter()
        .flat_map(|&b| half::f16::from_le_bytes(b).to_f32().to_le_bytes())
        .collect();
    assert_eq!(written("position_embd.weight"), positions, "without the two rows of the offset");
}

#[test]
fn a_converted_model_computes_what_transformers_does() {
    for name in LLAMAS.iter().chain(&OTHERS).chain(&OPTS) {
        let (_folder, file) = converted(name, OutType::F32);
        let prompt = read_json(data(name).join("prompt.json"));
        let tokens: Vec<TokenId> = serde_json::from_value(prompt["tokens"].clone()).expect("ids");
        let expected = golden::floats(&data(name).join("logits.f32"));
        let model = Model::load(Arc::new(file), Device::cpu(1).expect("a CPU")).expect("the model loads");
        let found = golden::logits(&Arc::new(model), &tokens, golden::f32_cache());
        let worst = golden::largest_difference(&found, &expected);
        println!("{name}: at most {worst:e} apart");
        // The order of additions; see tests/data/README.md for llama.cpp's distance on such files. ggml looks GELU up in a table
        // of f16: with such a table transformers itself differs by 1.5e-3 from these logits of `gemma3`.
        let tolerance = if name.starts_with("gemma") || *name == "starcoder2" { 3e-3 } else { 1e-4 };
        assert!(worst < tolerance, "{name}: {worst:e}");
    }
}

#[test]
fn the_command_writes_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.gguf");
    let checkpoint = data("llama-spm");
    let output =
        curtail(&["convert", checkpoint.to_str().expect("UTF-8"), "-o", path.to_str().expect("UTF-8"), "--json"])
            .output()
            .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((line["type"].as_str(), line["tensors"].as_u64()), (Some("f16"), Some(21)));
    assert!(File::open(&path).is_ok());
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}
