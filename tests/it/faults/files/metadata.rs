//! Every key that a command reads, with every kind of value that it should not have.

use curtail::gguf::{Array, File, Metadata, Value};
use curtail::quantize::{FileType, Options, Plan, Split, Target};

use super::{OnDisk, load_and_step};
use crate::common::curtail;
use crate::common::tiny::{N_EMBD, Tiny, TinyTensor};
use crate::common::watched::run;

/// Keys without the name of the architecture before them.
const GENERAL: [&str; 24] = [
    "general.architecture",
    "general.name",
    "general.alignment",
    "general.file_type",
    "general.type",
    "split.count",
    "split.no",
    "split.tensors.count",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.chat_template",
    "curtail.lacks.attention",
];

const OF_ARCHITECTURE: [&str; 28] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "expert_count",
    "nextn_predict_layers",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.original_context_length",
    "activation",
    "word_embed_proj_dim",
    "do_layer_norm_before",
    "leading_dense_block_count",
    "rope.scaling.finetuned",
];

fn values() -> Vec<Value> {
    let integers = [0, -1, 1, 3, 255, 1 << 31, (1 << 32) - 1, 1 << 40, i64::MIN, i64::MAX];
    let floats = [0.0, -1.0, 1e-40, 1.5, 1e38, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let mut values: Vec<Value> = integers.map(Value::I64).to_vec();
    values.extend([0, 1 << 31, u32::MAX].map(Value::U32));
    values.extend([1 << 62, 1 << 63, u64::MAX].map(Value::U64));
    values.extend([-1, i32::MIN, i32::MAX].map(Value::I32));
    values.extend([Value::U8(7), Value::I16(-3), Value::Bool(true), Value::Bool(false)]);
    values.extend(floats.map(Value::F32));
    values.extend([f64::NAN, 1e300, -0.0].map(Value::F64));
    values.extend(["", "x", "yarn", "\u{1b}[31m"].map(Value::from));
    values.push("x".repeat(100_000).into());
    let arrays = [
        Array::U32(vec![]),
        Array::U32(vec![0, 0]),
        Array::U32(vec![4, 4]),
        Array::U32(vec![4, 2]),
        Array::U32(vec![4; 3]),
        Array::U64(vec![1 << 62]),
        Array::U64(vec![u64::MAX; 2]),
        Array::I32(vec![-1; 262]),
        Array::I32(vec![i32::MIN, i32::MAX]),
        Array::I64(vec![1; 262]),
        Array::F32(vec![f32::NAN; 262]),
        Array::F32(vec![f32::INFINITY; 2]),
        Array::F64(vec![1e300; 262]),
        Array::Bool(vec![true, false]),
        Array::String(vec![]),
        Array::String(vec![String::new(); 262]),
        Array::String(vec!["x".to_owned(); 262]),
        Array::String(vec!["a b".to_owned(), " ".to_owned(), "a  b".to_owned()]),
        Array::Array(vec![Array::U32(vec![4, 4]), Array::U32(vec![])]),
    ];
    values.extend(arrays.map(Value::Array));
    values
}

/// The same model by its other architecture.
fn opt() -> Tiny {
    let mut tiny = Tiny::new();
    let pairs: Vec<(String, Value)> =
        tiny.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let mut metadata = Metadata::new();
    for (key, value) in pairs {
        metadata.insert(key.replace("llama.", "opt."), value);
    }
    metadata.insert("general.architecture", "opt");
    tiny.metadata = metadata;
    let positions: Vec<f32> = (0..N_EMBD * 256).map(|i| (i as f32).sin() * 0.1).collect();
    tiny.tensors.push(TinyTensor::f32("position_embd.weight", &[N_EMBD, 256], &positions));
    tiny
}

/// With the tokenizer of the other kind.
fn sentence_piece() -> Tiny {
    let tiny = Tiny::new().with("tokenizer.ggml.model", "llama");
    let scores: Vec<f32> = (0..262).map(|i| -(i as f32)).collect();
    tiny.with("tokenizer.ggml.scores", scores)
}

/// What a command makes of the file: an answer, or an error that says where the fault is.
fn judge(tiny: Tiny, key: &str, value: &Value) -> bool {
    let shown = value.describe();
    eprintln!("{key} = {shown}"); // what was tried last, should ggml end the process
    let model = OnDisk::new(&tiny.with(key, value.clone()));
    let plan = |file: &File| {
        let plan = Plan::new(file.metadata(), file.tensors(), &Options::new(Target::Type(FileType::Q8_0)), None)?;
        plan.parts(Split::Whole)?.iter().try_for_each(|part| part.file_bytes().map(drop))?;
        anyhow::Ok(())
    };
    if let Err(error) = File::open(&model.path).map_err(Into::into).and_then(|file| plan(&file)) {
        assert_names(&format!("{error:#}"), &model, key, &shown);
    }
    match load_and_step(&model.path) {
        Ok(_) => true,
        Err(error) => {
            assert_names(&format!("{error:#}"), &model, key, &shown);
            false
        }
    }
}

fn assert_names(message: &str, model: &OnDisk, key: &str, shown: &str) {
    // A key may be right by itself and contradict another, a tensor or the name of the file.
    let names_another = message.contains("is missing") || message.contains("expected") && message.contains("found");
    let says = message.contains(key) || names_another;
    assert!(message.contains(model.name()) && says, "{key} = {shown}: {message}");
    assert!(message.len() < 2000 && !message.contains('\u{1b}'), "{key} = {shown}: {message}");
}

/// Writer and reader share the check of the alignment, so that a file with a wrong one cannot be made here.
fn is_writable(key: &str, value: &Value) -> bool {
    let is_alignment = value.as_integer().is_some_and(|n| [1, 32].contains(&n));
    key != "general.alignment" || is_alignment
}

fn sweep(keys: &[String], tiny: impl Fn() -> Tiny) {
    for key in keys {
        for value in values().iter().filter(|value| is_writable(key, value)) {
            judge(tiny(), key, value);
        }
    }
}

fn of(architecture: &str) -> Vec<String> {
    OF_ARCHITECTURE.iter().map(|key| format!("{architecture}.{key}")).collect()
}

#[test]
fn any_value_of_a_general_key_is_an_answer_or_an_error_with_its_name() {
    sweep(&GENERAL.map(str::to_owned), Tiny::new);
}

#[test]
fn any_value_of_a_key_of_llama_is_an_answer_or_an_error_with_its_name() {
    sweep(&of("llama"), || Tiny::new().with("llama.rope.scaling.type", "yarn"));
}

#[test]
fn any_value_of_a_key_of_opt_is_an_answer_or_an_error_with_its_name() {
    sweep(&of("opt"), opt);
}

#[test]
fn any_value_of_a_key_of_sentence_piece_is_an_answer_or_an_error_with_its_name() {
    let keys: Vec<String> = GENERAL.iter().filter(|key| key.contains("tokenizer.ggml.")).map(|&k| k.into()).collect();
    sweep(&keys, sentence_piece);
}

/// Numbers that the forward pass cannot use are refused, those that say the same in another way are not.
#[test]
fn what_is_refused_and_what_is_taken() {
    let takes = |key: &str, value: Value| judge(Tiny::new().with("llama.rope.scaling.type", "yarn"), key, &value);
    let nan = || Value::F32(f32::NAN);
    for (key, value) in [
        ("llama.block_count", Value::U32(1 << 31)),
        ("llama.block_count", Value::U32(u32::MAX)),
        ("llama.block_count", Value::Array(Array::U64(vec![1 << 40]))),
        ("llama.context_length", Value::U32(u32::MAX)),
        ("llama.context_length", Value::Array(Array::U64(vec![u64::MAX]))),
        ("llama.embedding_length", Value::U32(1 << 31)),
        ("llama.attention.head_count", Value::Array(Array::U32(vec![4]))),
        ("llama.attention.head_count", Value::Array(Array::U32(vec![4, 2]))),
        ("llama.attention.layer_norm_rms_epsilon", nan()),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY)),
        ("llama.attention.layer_norm_rms_epsilon", "x".into()),
        ("llama.rope.freq_base", nan()),
        ("llama.rope.freq_base", Value::F32(0.0)),
        ("llama.rope.freq_base", Value::F32(-10000.0)),
        ("llama.rope.dimension_count", Value::U32(3)),
        ("llama.rope.scaling.factor", nan()),
        ("llama.rope.scaling.factor", Value::F32(-2.0)),
        ("llama.rope.scaling.attn_factor", Value::F32(0.0)),
        ("llama.rope.scaling.yarn_ext_factor", nan()),
        ("llama.rope.scaling.yarn_beta_fast", Value::F32(0.0)),
        ("llama.rope.scaling.original_context_length", Value::U32(0)),
        ("split.count", Value::U32(u32::MAX)),
    ] {
        assert!(!takes(key, value.clone()), "{key} = {}", value.describe());
    }
    for (key, value) in [
        ("llama.block_count", Value::U8(2)),
        ("llama.context_length", Value::I64(128)),
        ("llama.attention.head_count", Value::Array(Array::I32(vec![4, 4]))),
        ("llama.attention.layer_norm_rms_epsilon", Value::F64(1e-5)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(0.0)),
        ("llama.rope.freq_base", Value::U32(10000)),
        ("llama.rope.scaling.factor", Value::F32(0.0)),
        ("llama.rope.scaling.yarn_ext_factor", Value::F32(-1.0)),
        ("tokenizer.ggml.add_bos_token", Value::U32(1)),
        ("tokenizer.ggml.add_eos_token", Value::U8(0)),
        ("tokenizer.ggml.bos_token_id", Value::I32(-1)),
        ("tokenizer.ggml.token_type", Value::Array(Array::I64(vec![1; 262]))),
        ("general.alignment", Value::U64(64)),
    ] {
        if key != "general.alignment" {
            assert!(takes(key, value.clone()), "{key} = {}", value.describe());
        }
    }
}

/// A few of the same through the program, whose commands read different keys.
#[test]
fn commands_end_by_themselves() {
    let cases: [(&str, Value); 8] = [
        ("llama.block_count", Value::U32(u32::MAX)),
        ("llama.context_length", Value::Array(Array::U64(vec![1 << 63]))),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        ("llama.rope.freq_base", Value::F32(0.0)),
        ("general.architecture", Value::U32(0)),
        ("split.count", Value::U64(u64::MAX)),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(vec![]))),
        ("tokenizer.ggml.add_bos_token", Value::F32(f32::NAN)),
    ];
    for (key, value) in cases {
        let model = OnDisk::new(&Tiny::new().with(key, value));
        let out = model.beside("out.gguf");
        model.run(&[]).with(1, &[key, "odd.gguf", "expected", "found"]);
        for arguments in [
            vec!["inspect", model.name()],
            vec!["inspect", "--json", model.name()],
            vec!["tokenize", "-m", model.name(), "-p", "the"],
            vec!["quantize", model.name(), out.to_str().expect("UTF-8"), "Q8_0"],
            vec!["bench", "-m", model.name(), "-p", "4", "-n", "1", "-r", "1", "-t", "1"],
        ] {
            let ended = run(&mut curtail(&arguments), b"").by_itself();
            assert!(ended.code == Some(0) || ended.stderr.contains(key), "{key}: {arguments:?}: {ended:?}");
        }
    }
}

#[test]
fn what_is_odd_is_said_once_and_the_model_runs() {
    let tiny = Tiny::new().with("tokenizer.ggml.add_bos_token", 1u32).with("llama.rope.freq_base", 10000u32);
    let model = OnDisk::new(&tiny);
    let ended = model.run(&[]).with(0, &["`tokenizer.ggml.add_bos_token` is stored as u32 1", "odd.gguf"]);
    for text in ["add_bos_token", "`llama.rope.freq_base` is stored as u32 10000"] {
        assert_eq!(ended.stderr.matches(text).count(), 1, "{text}: {}", ended.stderr);
    }
}
