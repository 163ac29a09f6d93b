//! Logits of tiny OPTs against Hugging Face transformers, and of the graph's forms against each other.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::golden::{self, cut_model, f32_cache, largest_difference, last_logits};
use curtail::engine::{Branch, Cut, EngineParams, Sequence, TokenId, View};
use curtail::ggml::Device;
use curtail::gguf::{self, File, Metadata, Value, Writer};
use curtail::model::Model;
use curtail::plan::Depth;

const FOLDER: &str = "opt_golden";

/// Norms before each half of a layer; behind it, with maps to narrower embeddings, as opt-350m; GELU, no biases, norms
/// that do not scale.
const VARIANTS: [&str; 3] = ["pre-norm", "post-norm", "galactica"];

/// With an f32 cache only the order of sums differs, and queries are scaled after the product, not before it: measured
/// 8.3e-6 at most, with logits between -3.9 and 3.9. GELU's approximation would be 1.5e-3 off.
const F32_TOLERANCE: f32 = 1e-4;

fn load(name: &str) -> Arc<Model> {
    golden::load(FOLDER, name, 1)
}

fn prompt(name: &str) -> Vec<TokenId> {
    golden::prompt(FOLDER, name)
}

fn go_on(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn logits_equal_those_of_transformers() {
    golden::assert_logits_are_the_references(FOLDER, &VARIANTS, |_, _| F32_TOLERANCE);
}

#[test]
fn a_prompt_in_one_batch_gives_the_same_logits() {
    golden::assert_batches_give_the_reference(FOLDER, &VARIANTS, F32_TOLERANCE);
}

#[test]
fn layers_in_ranges_give_the_very_same_logits() {
    golden::assert_ranges_change_nothing(FOLDER, &VARIANTS);
}

/// The hidden states and logits that a prompt's last row has after some layers.
fn look(model: &Arc<Model>, tokens: &[TokenId], after: usize) -> Cut {
    let mut sequence = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
    let mut found = None;
    let at_cut = &mut |cuts: &[Cut]| {
        found.get_or_insert(cuts[0].clone());
        vec![true]
    };
    let cuts: Vec<Depth> = (after < model.config().n_layer).then_some(Depth(after)).into_iter().collect();
    sequence.fan_out(&[], &[Branch { tokens, shown: 1 }], &cuts, View::Logits, at_cut).expect("it runs");
    found.expect("a look")
}

#[test]
fn a_stop_gives_what_a_model_with_no_more_layers_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let cut = folder.path().join("cut.gguf");
    for name in VARIANTS {
        let tokens = prompt(name);
        for k in 1..load(name).config().n_layer {
            cut_model(&golden::path(FOLDER, &format!("{name}.gguf")), k, &cut);
            let expected = last_logits(&golden::load_file(&cut, 1), &tokens, f32_cache());
            let found = look(&load(name), &tokens, k);
            assert_eq!(found.depth, Depth(k));
            let difference = largest_difference(&found.logits, &expected);
            // The last layer's rows run alone in the cut model: ggml's f32 kernels then add up in another order.
            assert!(difference <= 1e-5, "{name} after layer {k}: {difference}");
        }
    }
}

#[test]
fn rows_of_the_head_read_its_logits_from_normed_states() {
    for name in VARIANTS {
        let (model, tokens) = (load(name), prompt(name));
        let of_tokens: Vec<TokenId> = vec![5, 50, 103];
        let rows = model.output_rows(&of_tokens).expect("rows");
        for after in 1..=model.config().n_layer {
            let seen = look(&model, &tokens, after);
            let x = model.config().final_norm().apply(&seen.hidden);
            for ((row, constant), &token) in rows.iter().zip(&of_tokens) {
                let logit = row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>() + constant;
                let difference = (logit - seen.logits[token as usize]).abs();
                assert!(difference < 1e-5, "{name} after layer {after}: {logit}, {difference} off");
            }
            // The head makes of a normed state what it makes of the state itself, but for an epsilon.
            let mut sequence = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
            let again = sequence.logits_of_states(&x).expect("it runs");
            assert!(largest_difference(&again, &seen.logits) < 1e-3, "{name} after layer {after}");
        }
    }
}

#[test]
fn rewinding_and_restoring_lead_to_the_same_logits() {
    for name in VARIANTS {
        let (model, tokens) = (load(name), prompt(name));
        let straight = last_logits(&model, &tokens, f32_cache());
        let mut sequence = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
        let mut other = tokens.clone();
        other[20] = (other[20] + 1) % 90;
        sequence.sync(&other, &mut go_on).expect("it runs");
        let synced = sequence.sync(&tokens, &mut go_on).expect("it runs");
        assert_eq!((synced.reused, synced.evaluated), (20, tokens.len() - 20));
        assert!(largest_difference(sequence.logits().expect("logits"), &straight) < F32_TOLERANCE);

        let mut state = Vec::new();
        sequence.save_state(&mut state).expect("memory takes it");
        let mut restored = Sequence::alone(model, f32_cache()).expect("a sequence");
        restored.load_state(&mut state.as_slice()).expect("the state fits");
        assert_eq!(restored.tokens(), &tokens[..]);
        assert!(largest_difference(restored.logits().expect("logits"), &straight) < F32_TOLERANCE);
    }
}

#[test]
fn the_context_ends_where_the_learned_positions_do_and_a_shift_goes_on() {
    let (model, tokens) = (load("pre-norm"), prompt("pre-norm"));
    let n_ctx = model.config().n_ctx_train;
    let too_long = EngineParams { n_ctx: n_ctx + 1, ..f32_cache() };
    let error = Sequence::alone(model.clone(), too_long).err().expect("no such position").to_string();
    let expected = "`ctx-size`: expected at most 56 tokens: this model has learned no positions beyond, found 57";
    assert_eq!(error, expected);

    let mut sequence = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
    assert_eq!(sequence.n_ctx(), n_ctx);
    let all: Vec<TokenId> = tokens.iter().copied().cycle().take(n_ctx).collect();
    sequence.sync(&all, &mut go_on).expect("the last position is there");
    assert_eq!(sequence.push(9).expect_err("full").to_string(), "the context of 56 tokens is full");
    sequence.shift(1, &mut go_on).expect("it runs");
    sequence.push(9).expect("room again");
    let kept = [&all[..1], &all[1 + (n_ctx - 1).div_ceil(2)..], &[9]].concat();
    assert_eq!(sequence.tokens(), kept);
    let fresh = last_logits(&model, &kept, f32_cache());
    assert!(largest_difference(sequence.logits().expect("logits"), &fresh) < F32_TOLERANCE);
}

/// Loads a golden file with other metadata.
fn load_with(change: impl FnOnce(&mut Metadata)) -> Result<Model, String> {
    let file = File::open(&golden::path(FOLDER, "post-norm.gguf")).expect("the golden file is whole");
    let mut metadata = file.metadata().clone();
    change(&mut metadata);
    let mut writer = Writer::new(metadata);
    for tensor in file.tensors() {
        writer.tensor(&tensor.name, tensor.dims(), tensor.dtype).expect("it was read");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("changed.gguf");
    let data = |tensor: &gguf::TensorInfo| {
        Ok::<_, gguf::Error>(Cow::Borrowed(file.data(file.tensor(&tensor.name).expect("it was there"))))
    };
    writer.write(&path, data).expect("written");
    let file = Arc::new(File::open(&path).expect("it was written"));
    Model::load(file, Device::cpu(1).expect("a CPU")).map_err(|e| e.to_string())
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let refused = |key: &str, value: Value| load_with(|meta| drop(meta.insert(key, value))).err().expect("refused");
    let error = refused("opt.activation", Value::String("silu".into()));
    assert!(error.starts_with("`opt.activation`: expected relu or gelu, found `silu` in "), "{error}");
    let error = refused("opt.context_length", Value::U32(57));
    assert!(error.starts_with("position_embd.weight: expected [32, 57], found [32, 56]"), "{error}");
    let error = refused("opt.word_embed_proj_dim", Value::U32(32));
    assert!(error.starts_with("token_embd.weight: expected [32, 104], found [16, 104]"), "{error}");
    let error = refused("opt.vocab_size", Value::U32(50272));
    assert!(error.contains("`opt.vocab_size`: expected the 104 rows of `token_embd.weight`, found 50272"), "{error}");
    assert!(load_with(|_| ()).is_ok());
}
