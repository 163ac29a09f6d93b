//! Mutated model files through all that loading a model does, and a step of it: reader, tokenizer, configuration, the checks of
//! weights, cache and graph. An answer or an error, never a panic and never an abort of ggml.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::Turn;
use crate::common::fuzz;
use crate::common::raw::Raw;
use curtail::engine::{EngineParams, Sequence};
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::{Config, Model, Placement};
use curtail::sample::Sampler;
use curtail::tokenizer::Tokenizer;

const N_EMBD: u64 = 32;
const N_FF: u64 = 64;

thread_local! {
    static CPU: Arc<Device> = Device::cpu(1).expect("a processor");
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder");
}

#[test]
fn mutated_models_never_end_the_process() {
    let _turn = Turn::take();
    let seeds = [model(0, 1, 0), model(8, 2, 0), model(0, 1, 4)];
    let outcomes = fuzz::run("model", 6_000, &seeds, |bytes, _| {
        CPU.with(|cpu| FOLDER.with(|folder| outcome(&folder.path().join("model.gguf"), bytes, cpu)))
    });
    let inputs: u64 = outcomes.values().sum();
    let ran = outcomes.get("ran").copied().unwrap_or(0);
    assert!(ran > inputs / 20, "the mutations must leave models that run: {ran} of {inputs}");
    let refused = outcomes.get("refused by the weights").copied().unwrap_or(0);
    assert!(refused > inputs / 100 || inputs < 1000, "the mutations must reach the weights: {outcomes:#?}");
}

fn outcome(path: &Path, bytes: &[u8], cpu: &Arc<Device>) -> String {
    std::fs::write(path, bytes).expect("written");
    let Ok(file) = File::open(path) else { return "refused by the reader".into() };
    let file = Arc::new(file);
    let Ok(tokenizer) = Tokenizer::from_gguf(file.metadata()) else { return "refused by the tokenizer".into() };
    let Ok(config) = Config::from_gguf(&file) else { return "refused by the configuration".into() };
    let params = EngineParams { n_ctx: config.n_ctx_train.min(16), ..EngineParams::default() };
    if EngineParams::default().context_for(&config).is_err() {
        return "refused by the context".into();
    }
    let Ok(model) = Model::place(file, config, Placement::on_cpu(cpu.clone()), &mut |_| {}) else {
        return "refused by the weights".into();
    };
    let (n_vocab, n_ctx) = (model.config().n_vocab, params.n_ctx);
    let Ok(mut sequence) = Sequence::alone(Arc::new(model), params) else { return "refused by the sequence".into() };
    let ids: Vec<u32> = (0..tokenizer.n_vocab().min(n_vocab).min(n_ctx - n_ctx.min(1)).min(5) as u32).collect();
    let run =
        sequence.sync(&ids, &mut |_, _| ControlFlow::Continue(())).and_then(|_| sequence.step(&mut Sampler::greedy()));
    if run.is_ok() { "ran".into() } else { "refused on the way".into() }
}

/// A whole model of so many layers, its matrices of one type (f32 or q8_0), with so many experts, if any.
fn model(dtype: u32, n_layer: u32, n_expert: u32) -> Raw {
    let tokens = ["<s>", "</s>", "a", "b", "ab", "\u{120}", "\u{120}a", "\u{10a}"];
    let (matrix, vector) = (dtype, 0);
    let mut tensors: Vec<(String, Vec<u64>, u32)> = vec![
        ("token_embd.weight".into(), vec![N_EMBD, 8], matrix),
        ("output_norm.weight".into(), vec![N_EMBD], vector),
        ("output.weight".into(), vec![N_EMBD, 8], matrix),
    ];
    for il in 0..n_layer {
        let mut add =
            |name: &str, dims: &[u64], dtype| tensors.push((format!("blk.{il}.{name}.weight"), dims.to_vec(), dtype));
        add("attn_norm", &[N_EMBD], vector);
        add("ffn_norm", &[N_EMBD], vector);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            add(name, &[N_EMBD, N_EMBD], matrix);
        }
        if n_expert > 0 {
            let n = u64::from(n_expert);
            add("ffn_gate_inp", &[N_EMBD, n], vector);
            add("ffn_gate_exps", &[N_EMBD, N_FF, n], matrix);
            add("ffn_up_exps", &[N_EMBD, N_FF, n], matrix);
            add("ffn_down_exps", &[N_FF, N_EMBD, n], matrix);
            continue;
        }
        add("ffn_gate", &[N_EMBD, N_FF], matrix);
        add("ffn_up", &[N_EMBD, N_FF], matrix);
        add("ffn_down", &[N_FF, N_EMBD], matrix);
    }
    let raw = Raw::header(tensors.len() as u64, 21).key("general.architecture", 8).str("llama");
    let raw = raw.pair_u32("llama.block_count", n_layer).pair_u32("llama.context_length", 32);
    let raw = raw.pair_u32("llama.embedding_length", N_EMBD as u32).pair_u32("llama.feed_forward_length", N_FF as u32);
    let raw = raw.pair_u32("llama.attention.head_count", 2).pair_u32("llama.attention.head_count_kv", 2);
    let raw = raw.pair_u32("llama.attention.key_length", 16).pair_u32("llama.attention.value_length", 16);
    let raw = raw.pair_u32("llama.expert_count", n_expert).pair_u32("llama.expert_used_count", n_expert / 2);
    let raw = raw.pair_u32("llama.rope.dimension_count", 16).pair_u32("llama.rope.scaling.original_context_length", 32);
    let float = |raw: Raw, key: &str, x: f32| raw.key(key, 6).u32(x.to_bits());
    let raw = float(raw, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    let raw = float(float(raw, "llama.rope.freq_base", 10000.0), "llama.rope.scaling.factor", 2.0);
    let raw = raw.key("llama.rope.scaling.type", 8).str("yarn").key("tokenizer.ggml.model", 8).str("gpt2");
    let raw = strings(raw, "tokenizer.ggml.tokens", &tokens);
    let raw = strings(raw, "tokenizer.ggml.merges", &["a b", "\u{120} a"]);
    let raw = raw.pair_u32("tokenizer.ggml.eos_token_id", 1);
    with_data(raw, &tensors)
}

/// The directory of the tensors, and their data.
fn with_data(mut raw: Raw, tensors: &[(String, Vec<u64>, u32)]) -> Raw {
    let bytes = |dims: &[u64], dtype: u32| {
        let n: u64 = dims.iter().product();
        if dtype == 8 { n / 32 * 34 } else { n * 4 }
    };
    let mut offset = 0;
    for (name, dims, dtype) in tensors {
        raw = raw.tensor(name, dims, *dtype, offset);
        offset = (offset + bytes(dims, *dtype)).next_multiple_of(32);
    }
    raw = raw.data(32, 0);
    for (_, dims, dtype) in tensors {
        let n: u64 = dims.iter().product();
        let data: Vec<u8> = match dtype {
            // A scale of 2^-6, and small numbers.
            8 => (0..n / 32)
                .flat_map(|i| [0, 0x24].into_iter().chain((0..32).map(move |j| ((i + j) % 7) as u8)))
                .collect(),
            _ => (0..n).flat_map(|i| (0.05 * ((i % 13) as f32 - 6.0)).to_le_bytes()).collect(),
        };
        raw = raw.bytes(&data);
        let padded = raw.0.len().next_multiple_of(32);
        raw.0.resize(padded, 0);
    }
    raw
}

fn strings(raw: Raw, key: &str, texts: &[&str]) -> Raw {
    let raw = raw.key(key, 9).u32(8).u64(texts.len() as u64);
    texts.iter().fold(raw, |raw, text| raw.str(text))
}
