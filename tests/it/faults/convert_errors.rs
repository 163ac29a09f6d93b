//! Checkpoints that lie, lack something, or attack: an error that names the place, and nothing written.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use crate::common::checkpoint::{Files, data, safetensors, take_apart, variant};
use crate::common::curtail;
use curtail::convert::{Error, Options, Plan};
use serde_json::{Value as Json, json};

/// The error of a checkpoint after a change. The command must say it too, and leave the target's folder empty.
fn refused(name: &str, change: impl FnOnce(&mut Files)) -> String {
    let folder = variant(name, change);
    let error = Plan::new(folder.path(), &Options::default()).expect_err("a refusal").to_string();
    let target = tempfile::tempdir().expect("a folder");
    let path = target.path().join("out.gguf");
    let output = curtail(&["convert", &folder.path().to_string_lossy(), "-o", &path.to_string_lossy()]).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("error: {error}\n"));
    assert_eq!(fs::read_dir(target.path()).expect("a folder").count(), 0, "{error}");
    error
}

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} in: {error}"));
}

/// `llama-bpe` with another directory or other data of its weights.
fn with_weights(change: impl FnOnce(&mut Json, &mut Vec<u8>)) -> String {
    refused("llama-bpe", |files| {
        let path = files.folder.join("model.safetensors");
        let (mut header, mut data) = take_apart(&fs::read(&path).expect("weights"));
        change(&mut header, &mut data);
        fs::write(&path, safetensors(&header, &data)).expect("it can be written");
    })
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

#[test]
fn tensors_that_overlap_leave_holes_or_reach_outside() {
    let error = with_weights(|header, _| {
        header[NORM]["data_offsets"] = header["model.layers.0.input_layernorm.weight"]["data_offsets"].clone()
    });
    assert_says(&error, &["start of tensor", "where the one before ends", "model.safetensors"]);
    let error = with_weights(|header, data| {
        let end = data.len();
        header[NORM]["data_offsets"] = json!([end, end + 64]);
    });
    assert_says(&error, &["`data_offsets` of tensor `model.norm.weight`", "bytes of data"]);
    let error = with_weights(|header, _| header[NORM]["data_offsets"] = json!([64, 0]));
    assert_says(&error, &["`data_offsets` of tensor `model.norm.weight`", "[64, 0]"]);
    let error = with_weights(|_, data| data.extend([0; 7]));
    assert_says(&error, &["size: expected", "where the last tensor ends"]);
    let error = with_weights(|header, _| header[EMBEDDING]["shape"] = json!([u64::MAX, u64::MAX]));
    assert_says(&error, &["`data_offsets`", "a size that fits"]);
    let error = with_weights(|header, _| header[EMBEDDING]["shape"] = json!([-1, 32]));
    assert_says(&error, &["`shape` of tensor `model.embed_tokens.weight`", "an array of counts"]);
}

#[test]
fn directories_that_are_none() {
    let write = |bytes: &'static [u8]| {
        move |files: &mut Files| fs::write(files.folder.join("model.safetensors"), bytes).expect("it can be written")
    };
    assert_says(&refused("llama-bpe", write(b"")), &["size: expected at least 8 bytes, found 0"]);
    assert_says(
        &refused("llama-bpe", write(b"\xff\xff\xff\xff\xff\xff\xff\xff{}")),
        &["length of the header", "at most 2 bytes"],
    );
    assert_says(&refused("llama-bpe", write(b"\x02\0\0\0\0\0\0\0[]")), &["header: expected a JSON object"]);
    assert_says(&refused("llama-bpe", write(b"\x02\0\0\0\0\0\0\0{x")), &["header: expected JSON"]);
    assert_says(
        &refused("llama-bpe", write(b"\x02\0\0\0\0\0\0\0{}")),
        &["no more layers than the 0 tensors of the checkpoint"],
    );
}

#[test]
fn tensors_of_other_shapes_types_and_names() {
    let error = with_weights(|header, _| header[EMBEDDING]["shape"] = json!([32, 604]));
    assert_says(&error, &["shape of tensor `model.embed_tokens.weight`: expected [604, 32], found [32, 604]"]);
    let error = with_weights(|header, _| header[NORM]["dtype"] = json!("I16"));
    assert_says(&error, &["`dtype` of tensor `model.norm.weight`", "found `I16`", "hint: quantized checkpoints"]);
    let error = with_weights(|header, _| {
        let norm = header.as_object_mut().expect("an object").remove(NORM).expect("a norm");
        header["model.layers.9.extra.weight"] = norm;
    });
    assert_says(&error, &["only tensors that `config.json` tells of", "`model.layers.9.extra.weight` [32]"]);
    let error = refused("opt-350m-like", |files| files.entry("config.json")["do_layer_norm_before"] = json!(true));
    assert_says(&error, &["expected `decoder.final_layer_norm.weight` [32], found no such tensor"]);
}

#[test]
fn shards_that_are_missing_or_elsewhere() {
    let shard = "model-00002-of-00003.safetensors";
    let error = refused("llama-spm", |files| fs::remove_file(files.folder.join(shard)).expect("it is there"));
    assert_says(&error, &["cannot open", shard]);
    let index = "model.safetensors.index.json";
    let error = refused("llama-spm", |files| {
        fs::remove_file(files.folder.join(shard)).expect("it is there");
        fs::remove_file(files.folder.join(index)).expect("it is there");
    });
    assert_says(&error, &["no such tensor"]);
    for outside in ["../model.safetensors", "/etc/passwd", "..", "", "a\\b", "c:x"] {
        let error = refused("llama-spm", |files| files.entry(index)["weight_map"][NORM] = json!(outside));
        assert_says(&error, &["`weight_map.model.norm.weight`", "a file beside the index", index]);
    }
    let error = refused("llama-spm", |files| files.entry(index)["weight_map"]["ghost"] = json!(shard));
    assert_says(&error, &["tensor `ghost`", "no such tensor", shard]);
    let error = refused("llama-spm", |files| {
        drop(files.entry(index)["weight_map"].as_object_mut().expect("an object").remove(NORM));
    });
    assert_says(&error, &["`model.norm.weight` besides"]);
    let error = refused("llama-spm", |files| *files.entry(index) = json!({"weight_map": 1}));
    assert_says(&error, &["`weight_map`: expected an object, found 1"]);
    let error = refused("llama-spm", |files| {
        for entry in fs::read_dir(&files.folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().contains(".safetensors") {
                fs::remove_file(path).expect("it is there");
            }
        }
    });
    assert_says(&error, &["weights: expected `model*.safetensors` or `pytorch_model*.bin`, found neither"]);
}

/// `opt-prenorm` with another pickle, or with its archive changed byte by byte.
fn with_pickle(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    refused("opt-prenorm", |files| {
        let path = files.folder.join("pytorch_model.bin");
        let mut archive = zip::ZipArchive::new(fs::File::open(&path).expect("an archive")).expect("an archive");
        let mut change = Some(change);
        let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for i in 0..archive.len() {
            let mut member = archive.by_index(i).expect("a member");
            let name = member.name().expect("a name").into_owned();
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).expect("its bytes");
            if let Some(change) = change.take_if(|_| name.ends_with("data.pkl")) {
                bytes = change(bytes);
            }
            let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            out.start_file(name, stored).expect("a member");
            out.write_all(&bytes).expect("its bytes");
        }
        fs::write(&path, out.finish().expect("an archive").into_inner()).expect("it can be written");
    })
}

/// The first of these bytes replaced, wherever they are.
fn replaced(bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the pickle has it");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn pickles_run_nothing() {
    let canary = tempfile::tempdir().expect("a folder");
    let touched = canary.path().join("touched");
    let command = format!("touch {}", touched.display());
    let attack =
        [b"\x80\x02cposix\nsystem\nX".as_slice(), &(command.len() as u32).to_le_bytes(), command.as_bytes(), b"\x85R."]
            .concat();
    let error = with_pickle(|_| attack);
    assert_says(
        &error,
        &[
            "pickle: expected only names that a state dict of tensors needs, found the global `posix.system`",
            "nothing of the file was run",
        ],
    );
    assert!(!touched.exists());
    let error = with_pickle(|pickle| replaced(pickle, b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\neval\n"));
    assert_says(&error, &["the global `builtins.eval`"]);
    let error = with_pickle(|pickle| replaced(pickle, b"HalfStorage\n", b"hub\nload\n"));
    assert_says(&error, &["pickle: "]);
    let error = with_pickle(|pickle| pickle[..pickle.len() / 2].to_vec());
    assert_says(&error, &["pickle: expected", "found the end after"]);
    let error = with_pickle(|_| b"\x80\x02N.".to_vec());
    assert_says(&error, &["pickle: expected a dict of tensors, found None"]);
}

#[test]
fn pickles_whose_tensors_are_not_where_they_say() {
    // Embedding [305, 32] with the strides of a transposed one: BININT2 305, BININT1 32, TUPLE2; 32, 1, TUPLE2.
    let shape = b"M\x31\x01K \x86";
    let error = with_pickle(|pickle| {
        let at = pickle.windows(shape.len()).position(|w| w == shape).expect("a shape") + shape.len();
        let strides = pickle[at..].windows(5).position(|w| w == b"K K\x01\x86").expect("strides") + at;
        [&pickle[..strides], b"K\x01K \x86".as_slice(), &pickle[strides + 5..]].concat()
    });
    assert_says(&error, &["strides of tensor `decoder.embed_tokens.weight`", "contiguous rows"]);
    let error = with_pickle(|pickle| replaced(pickle, b"X\x01\0\0\x000", b"X\x01\0\0\0x"));
    assert_says(&error, &["storage of tensor `decoder.embed_tokens.weight`: expected a member `data/x`, found none"]);
    let error = with_pickle(|pickle| replaced(pickle, shape, b"M\x32\x01K \x86"));
    assert_says(&error, &["shape of tensor `decoder.embed_tokens.weight`: expected a view of"]);
    let error = with_pickle(|pickle| replaced(pickle, b"HalfStorage", b"LongStorage"));
    assert_says(&error, &["elements of tensor", "floating-point numbers, found integers"]);
}

#[test]
fn archives_that_are_none() {
    let write = |bytes: Vec<u8>| {
        move |files: &mut Files| fs::write(files.folder.join("pytorch_model.bin"), bytes).expect("it can be written")
    };
    let whole = fs::read(data("opt-prenorm").join("pytorch_model.bin")).expect("an archive");
    let old = [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".as_slice(), &[0; 100]].concat();
    assert_says(
        &refused("opt-prenorm", write(old)),
        &["content: expected a zip archive, as `torch.save` writes since PyTorch 1.6", "hint:"],
    );
    assert_says(
        &refused("opt-prenorm", write(whole[..whole.len() / 2].to_vec())),
        &["content: expected a zip archive"],
    );
    // The method of every member in the central directory: 8 is deflate.
    let mut compressed = whole.clone();
    for at in (0..whole.len() - 12).filter(|&at| whole[at..].starts_with(b"PK\x01\x02")) {
        compressed[at + 10] = 8;
    }
    assert_says(&refused("opt-prenorm", write(compressed)), &["member `"]);
}

#[test]
fn vocabularies_that_are_cut_short_or_contradict_themselves() {
    let cut = |file: &'static str| {
        move |files: &mut Files| {
            let path = files.folder.join(file);
            let bytes = fs::read(&path).expect("a file");
            fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be written");
        }
    };
    assert_says(
        &refused("llama-spm", cut("tokenizer.model")),
        &["protobuf: expected", "the end of the message", "tokenizer.model"],
    );
    assert_says(&refused("llama-bpe", cut("tokenizer.json")), &["content: expected JSON", "tokenizer.json"]);
    assert_says(&refused("opt-prenorm", cut("vocab.json")), &["content: expected JSON", "vocab.json"]);
    assert_says(
        &refused("llama-spm", cut("tokenizer_config.json")),
        &["content: expected JSON", "tokenizer_config.json"],
    );
    let error = refused("llama-bpe", |files| files.entry("tokenizer.json")["model"]["type"] = json!("Unigram"));
    assert_says(&error, &["`model.type`: expected `BPE`, found `Unigram`"]);
    let error =
        refused("llama-bpe", |files| fs::remove_file(files.folder.join("tokenizer.json")).expect("it is there"));
    assert_says(
        &error,
        &["tokenizer: expected `tokenizer.model`, `tokenizer.json`, or `vocab.json` with `merges.txt`, found none"],
    );
    let error =
        refused("llama-spm", |files| fs::write(files.folder.join("tokenizer.model"), b"").expect("it can be written"));
    assert_says(&error, &["pieces: expected a vocabulary, found none", "hint:"]);
}

/// What does not fit is no reason to refuse the rest: it is left out, and said.
#[test]
fn tokens_and_merges_that_have_no_place() {
    let notices = |change: &dyn Fn(&mut Json)| {
        let folder = variant("llama-bpe", |files| change(&mut files.entry("tokenizer.json")["model"]));
        let plan = Plan::new(folder.path(), &Options::default()).expect("the rest");
        assert_eq!(plan.metadata().strings("tokenizer.ggml.tokens").expect("a list").expect("a list").len(), 604);
        plan.notices().join("\n")
    };
    let said = notices(&|model| model["vocab"]["more"] = json!(604));
    assert_says(&said, &["1 token without a row in the model left out: \"more\""]);
    let said = notices(&|model| model["vocab"]["more"] = json!(300));
    assert_says(&said, &["1 token whose id another one has left out: \"more\""]);
    let said = notices(&|model| model["merges"] = json!([["a", "b"], ["a", "\u{1F600}"]]));
    assert_says(&said, &["of tokens that are not in the vocabulary left out", "\"a \u{1F600}\""]);
}

#[test]
fn splitting_rules_without_a_name() {
    let folder =
        variant("llama-bpe", |files| files.entry("tokenizer.json")["pre_tokenizer"] = json!({"type": "Whitespace"}));
    let error = Plan::new(folder.path(), &Options::default()).expect_err("a refusal").to_string();
    assert_says(
        &error,
        &["`pre_tokenizer`", "Whitespace", "hint: if you know which rules these are, name them: --pre NAME"],
    );
    let named = |pre: &str| {
        let options = Options { pre: Some(pre.into()), ..Options::default() };
        Plan::new(folder.path(), &options).map_err(|error| error.to_string())
    };
    let plan = named("gpt-2").expect("a name that is known");
    assert_eq!(plan.metadata().str("tokenizer.ggml.pre").expect("a string"), Some("gpt-2"));
    assert_says(
        &named("no-such-rules").expect_err("a refusal").to_string(),
        &["--pre: expected a name", "`no-such-rules`"],
    );
}

#[test]
fn configurations_that_ask_for_something_else() {
    let with = |key: &'static str, value: Json| refused("llama-bpe", |files| files.entry("config.json")[key] = value);
    assert_says(&with("architectures", json!(["MambaForCausalLM"])), &["`architectures`", "found `MambaForCausalLM`"]);
    assert_says(&with("architectures", Json::Null), &["`architectures`: expected a list with a name"]);
    assert_says(
        &with("hidden_size", Json::Null),
        &["`hidden_size`: expected a count of at least 1, found no such key"],
    );
    assert_says(&with("hidden_size", json!("32")), &["`hidden_size`", "found `32`"]);
    assert_says(&with("hidden_size", json!(-1)), &["`hidden_size`", "found -1"]);
    assert_says(&with("num_attention_heads", json!(0)), &["`num_attention_heads`", "found 0"]);
    assert_says(
        &with("num_hidden_layers", json!(4_000_000_000u32)),
        &["`num_hidden_layers`", "no more layers than the 20 tensors"],
    );
    assert_says(&with("num_key_value_heads", json!(3)), &["`num_key_value_heads`: expected a divisor of the 4 heads"]);
    assert_says(&with("head_dim", json!(15)), &["`head_dim`: expected an even count"]);
    assert_says(&with("hidden_act", json!("gelu")), &["`hidden_act`: expected `silu`, found `gelu`"]);
    assert_says(&with("rope_scaling", json!({"rope_type": "longrope"})), &["rope_type", "found `longrope`"]);
    assert_says(
        &with("quantization_config", json!({"quant_method": "gptq"})),
        &["an unquantized checkpoint, found `gptq`", "hint:"],
    );
    let error = refused("opt-prenorm", |files| files.entry("config.json")["activation_function"] = json!("tanh"));
    assert_says(&error, &["`activation_function`: expected `relu` or `gelu`, found `tanh`"]);
    let error = refused("llama-bpe", |files| fs::remove_file(files.folder.join("config.json")).expect("it is there"));
    assert_says(&error, &["cannot open", "config.json"]);
}

/// What an architecture of GGUF takes for granted must hold, or the file would compute something else.
#[test]
fn configurations_that_gguf_has_no_words_for() {
    let cases: &[(&str, &str, Json, &str)] = &[
        ("gemma3", "query_pre_attn_scalar", json!(168), "expected 16, found 168"),
        ("gemma3", "query_pre_attn_scalar", Json::Null, "expected 16, found 256"),
        ("gemma3", "final_logit_softcapping", json!(30.0), "expected none, as GGUF's `gemma3` has it, found 30.0"),
        ("gemma3", "attn_logit_softcapping", json!(50.0), "expected none"),
        ("gemma3", "use_bidirectional_attention", json!(true), "expected none, as GGUF's `gemma3` has it, found true"),
        ("gemma3", "hidden_activation", json!("gelu"), "expected `gelu_pytorch_tanh`, found `gelu`"),
        ("gemma3", "layer_types", json!(vec!["full_attention"; 7]), "expected `sliding_attention` for layer 0"),
        ("gemma3", "layer_types", json!(vec!["sliding_attention"; 6]), "a kind for each of the 7 layers, found 6"),
        ("gemma3", "sliding_window", Json::Null, "expected a count of at least 1, found null"),
        ("gemma3", "rope_parameters", json!({"rope_theta": 1e6}), "full_attention`: expected an object"),
        (
            "gemma3",
            "rope_parameters",
            json!({"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}),
            "sliding_attention.rope_type`: expected `default`, found `linear`",
        ),
        ("gemma3", "rope_local_base_freq", json!("10000"), "found `10000`"),
        ("gemma2", "final_logit_softcapping", Json::Null, "expected a number above 0, found null"),
        ("gemma2", "attn_logit_softcapping", json!(0), "expected a number above 0, found 0"),
        ("gemma2", "attention_bias", json!(true), "expected none"),
        ("gemma2", "layer_types", json!(["full_attention", "sliding_attention"]), "`sliding_attention` for layer 0"),
        ("qwen2", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "`yarn` or `dynamic`, found `llama3`"),
        ("qwen2", "rope_parameters", json!({"full_attention": {}}), "full_attention`: expected no such key"),
        ("qwen2", "partial_rotary_factor", json!(0.5), "expected 1, found 0.5"),
        ("starcoder2", "partial_rotary_factor", json!(0.5), "expected 1, found 0.5"),
        ("qwen2", "num_key_value_heads", json!(3), "expected a divisor of the 4 heads"),
        ("qwen3", "hidden_act", json!("gelu"), "expected `silu`, found `gelu`"),
        ("smollm3", "no_rope_layers", json!([1, 1, 0, 1]), "a 0 for every layer of 4, and 1 for the others"),
        ("smollm3", "use_sliding_window", json!(true), "expected none"),
        ("granite", "logits_scaling", json!(-1.0), "expected a number above 0, found -1.0"),
        ("granite", "head_dim", json!(16), "expected 8, found 16"),
        ("olmo2", "attention_bias", json!(true), "expected none"),
        ("starcoder2", "norm_epsilon", json!(-1.0), "expected a number of at least 0, found -1"),
    ];
    for (name, key, value, expected) in cases {
        let error = refused(name, |files| {
            let config = files.entry("config.json");
            if *key == "rope_local_base_freq" {
                config["rope_parameters"]["sliding_attention"] = Json::Null;
            }
            config[*key] = value.clone();
        });
        assert_says(&error, &[key, expected, "config.json"]);
    }
}

/// The text model of a larger one, a pattern instead of kinds, and architectures that nobody converts.
#[test]
fn configurations_of_other_models() {
    let error = refused("gemma3", |files| {
        let config = files.entry("config.json").as_object_mut().expect("an object");
        config.remove("layer_types");
        config.insert("sliding_window_pattern".into(), json!(2));
    });
    assert_says(&error, &["`sliding_window_pattern`: expected 6, found 2"]);
    let error = refused("gemma3-images", |files| files.entry("config.json")["text_config"]["hidden_size"] = Json::Null);
    assert_says(&error, &["`text_config.hidden_size`: expected a count of at least 1"]);
    let error = refused("gemma3-images", |files| files.entry("config.json")["text_config"] = Json::Null);
    assert_says(&error, &["`text_config`: expected an object, found no such key"]);
    let named = |name: &str| refused("qwen2", |files| files.entry("config.json")["architectures"] = json!([name]));
    let error = named("Qwen2MoeForCausalLM");
    assert_says(
        &error,
        &["`LlamaForCausalLM`, `MistralForCausalLM`, ", "hint: the nearest that is converted is `Qwen2ForCausalLM`"],
    );
    assert!(!named("MambaForCausalLM").contains("hint"));
}

/// Biases that the architecture always has are missed by name.
#[test]
fn tensors_that_the_architecture_has_are_missed() {
    let error = refused("qwen2", |files| files.entry("config.json")["num_hidden_layers"] = json!(3));
    assert_says(&error, &["`model.layers.2.input_layernorm.weight` [32], found no such tensor"]);
    let error = refused("qwen2", |files| files.entry("config.json")["architectures"] = json!(["Qwen3ForCausalLM"]));
    assert_says(&error, &["tensor"]);
    let error = refused("qwen3", |files| files.entry("config.json")["attention_bias"] = json!(true));
    assert_says(&error, &["`model.layers.0.self_attn.q_proj.bias` [64], found no such tensor"]);
}

#[test]
fn an_end_before_the_end_leaves_the_old_file() {
    let plan = Plan::new(&data("llama-spm"), &Options::default()).expect("a plan");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.gguf");
    fs::write(&path, "old").expect("it can be written");
    let stopped = plan.write(&path, |_| false);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_untouched(folder.path());
    let checkpoint = variant("llama-spm", |_| {});
    let plan = Plan::new(checkpoint.path(), &Options::default()).expect("a plan");
    let shard = checkpoint.path().join("model-00002-of-00003.safetensors");
    fs::File::options().write(true).open(&shard).expect("a shard").set_len(1000).expect("it can be cut");
    let error = plan.write(&path, |_| true).expect_err("the shard is too short now").to_string();
    assert_says(&error, &["cannot read", "model-00002-of-00003.safetensors"]);
    assert_untouched(folder.path());
    plan_again(&path);
}

fn assert_untouched(folder: &Path) {
    assert_eq!(fs::read(folder.join("out.gguf")).expect("the old file"), b"old");
    assert_eq!(fs::read_dir(folder).expect("a folder").count(), 1);
}

fn plan_again(path: &Path) {
    Plan::new(&data("llama-spm"), &Options::default()).expect("a plan").write(path, |_| true).expect("it is written");
    assert!(curtail::gguf::File::open(path).is_ok());
}

/// A limit on the size of files stands in for a full disk: writing fails in the middle.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec '{}' convert '{}' --outtype f32 -o '{}/out.gguf'",
        env!("CARGO_BIN_EXE_curtail"),
        data("llama-spm").display(),
        folder.path().display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["error: cannot write", "out.gguf"]);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
