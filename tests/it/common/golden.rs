//! Golden models with what another program makes of them.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curtail::dtype::DType;
use curtail::engine::{EngineParams, Sequence, TokenId};
use curtail::ggml::Device;
use curtail::gguf::{self, File, Writer};
use curtail::model::Model;
use curtail::plan::Depth;

/// A file of a folder of `tests/data`.
pub(crate) fn path(folder: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder).join(file)
}

/// One thread is best: tests run beside each other, and waiting threads spin.
pub(crate) fn load_file(path: &Path, n_threads: usize) -> Arc<Model> {
    let file = File::open(path).expect("the file is whole");
    Arc::new(Model::load(Arc::new(file), Device::cpu(n_threads).expect("a CPU")).expect("the model loads"))
}

pub(crate) fn load(folder: &str, name: &str, n_threads: usize) -> Arc<Model> {
    load_file(&path(folder, &format!("{name}.gguf")), n_threads)
}

pub(crate) fn prompt(folder: &str, name: &str) -> Vec<TokenId> {
    let text = std::fs::read_to_string(path(folder, &format!("{name}.json"))).expect("the golden prompt");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["tokens"].as_array().expect("a list").iter().map(|t| t.as_u64().expect("an id") as TokenId).collect()
}

pub(crate) fn reference(folder: &str, name: &str) -> Vec<f32> {
    floats(&path(folder, &format!("{name}.logits.f32")))
}

pub(crate) fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("the golden logits");
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

pub(crate) fn f32_cache() -> EngineParams {
    EngineParams { type_k: DType::F32, type_v: DType::F32, ..EngineParams::default() }
}

/// Logits at every position, the tokens fed one by one.
pub(crate) fn logits(model: &Arc<Model>, tokens: &[TokenId], params: EngineParams) -> Vec<f32> {
    let mut sequence = Sequence::alone(model.clone(), params).expect("a sequence");
    let mut all = Vec::new();
    for end in 1..=tokens.len() {
        sequence.sync(&tokens[..end], &mut |_, _| ControlFlow::Continue(())).expect("it runs");
        all.extend_from_slice(sequence.logits().expect("logits"));
    }
    all
}

/// Logits after the whole prompt, run as batches.
pub(crate) fn last_logits(model: &Arc<Model>, tokens: &[TokenId], params: EngineParams) -> Vec<f32> {
    let mut sequence = Sequence::alone(model.clone(), params).expect("a sequence");
    sequence.sync(tokens, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    sequence.logits().expect("logits").to_vec()
}

pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The prompt of every variant, run as one batch and as several, gives the reference's last logits.
pub(crate) fn assert_batches_give_the_reference(folder: &str, variants: &[&str], tolerance: f32) {
    for name in variants {
        let (model, tokens, reference) = (load(folder, name, 1), prompt(folder, name), reference(folder, name));
        let last = &reference[reference.len() - model.config().n_vocab..];
        for n_batch in [tokens.len(), 7, 2] {
            let found = last_logits(&model, &tokens, EngineParams { n_batch, ..f32_cache() });
            let difference = largest_difference(&found, last);
            assert!(difference < tolerance, "{name}, batches of {n_batch}: {difference}");
        }
    }
}

/// The logits of every variant, with and without flash attention, are the reference's.
pub(crate) fn assert_logits_are_the_references(folder: &str, variants: &[&str], tolerance: impl Fn(&str, bool) -> f32) {
    for name in variants {
        let (model, tokens, reference) = (load(folder, name, 1), prompt(folder, name), reference(folder, name));
        for flash_attn in [false, true] {
            let found = logits(&model, &tokens, EngineParams { flash_attn: Some(flash_attn), ..f32_cache() });
            let difference = largest_difference(&found, &reference);
            println!("{name}, flash attention {flash_attn}: largest difference {difference:e}");
            assert!(difference < tolerance(name, flash_attn), "{name}: {difference}");
        }
    }
}

/// Layers that run one by one give what they give at once, to the bit: the prompt in batches, and token by token.
pub(crate) fn assert_ranges_change_nothing(folder: &str, variants: &[&str]) {
    let flash = EngineParams { flash_attn: Some(true), ..EngineParams::default() };
    for name in variants {
        let (model, tokens) = (load(folder, name, 1), prompt(folder, name));
        let cuts: Vec<Depth> = (1..model.config().n_layer).map(Depth).collect();
        assert!(!cuts.is_empty(), "{name} has several layers");
        for whole in [f32_cache(), EngineParams::default(), flash.clone()] {
            let cut = EngineParams { cuts: cuts.clone(), ..whole.clone() };
            for run in [logits, last_logits] {
                assert_eq!(run(&model, &tokens, whole.clone()), run(&model, &tokens, cut.clone()), "{name}");
            }
        }
    }
}

/// A copy of a model file with its first `n_layer` layers only.
pub(crate) fn cut_model(path: &Path, n_layer: usize, to: &Path) {
    let file = File::open(path).expect("a model file");
    let mut metadata = file.metadata().clone();
    let architecture = metadata.need_str("general.architecture").expect("named").to_owned();
    metadata.insert(format!("{architecture}.block_count"), n_layer as u32);
    let mut writer = Writer::new(metadata);
    let stays = |name: &str| {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        layer.is_none_or(|il| il < n_layer)
    };
    for tensor in file.tensors().iter().filter(|t| stays(&t.name)) {
        writer.tensor(&tensor.name, tensor.dims(), tensor.dtype).expect("it was read");
    }
    writer
        .write(to, |tensor| {
            Ok::<_, gguf::Error>(Cow::Borrowed(file.data(file.tensor(&tensor.name).expect("it was there"))))
        })
        .expect("written");
}
