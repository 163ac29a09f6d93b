//! Logits of tiny Llamas against Hugging Face transformers, and of the graph's forms against each other.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::golden::{self, f32_cache, largest_difference, last_logits, logits};
use curtail::dtype::DType;
use curtail::engine::{EngineParams, Sequence, TokenId};
use curtail::model::Model;

const FOLDER: &str = "llama_golden";

const VARIANTS: [&str; 7] = ["gqa-untied", "tied", "biases", "head-dim", "rope-linear", "rope-yarn", "rope-llama3"];

/// With an f32 cache only the order of sums differs; llama.cpp differs by up to 1.6e-5 on the same files.
const F32_TOLERANCE: f32 = 1e-4;

fn load(name: &str) -> Arc<Model> {
    golden::load(FOLDER, name, 1)
}

fn prompt(name: &str) -> Vec<TokenId> {
    golden::prompt(FOLDER, name)
}

fn reference(name: &str) -> Vec<f32> {
    golden::reference(FOLDER, name)
}

#[test]
fn logits_equal_those_of_transformers() {
    // Flash attention reads queries as f16 whatever the cache holds.
    golden::assert_logits_are_the_references(FOLDER, &VARIANTS, |_, flash| if flash { 2e-2 } else { F32_TOLERANCE });
}

#[test]
fn a_prompt_in_one_batch_gives_the_same_logits() {
    golden::assert_batches_give_the_reference(FOLDER, &VARIANTS, F32_TOLERANCE);
}

#[test]
fn layers_in_ranges_give_the_very_same_logits() {
    golden::assert_ranges_change_nothing(FOLDER, &["gqa-untied"]);
}

/// A block of q8_0 counts in steps of 1/127 of its largest value, f16 in steps of 1/2048 of each: 16 to 32 times finer.
#[test]
fn quantized_caches_stay_near_the_reference() {
    let (model, tokens, reference) = (load("head-dim"), prompt("head-dim"), reference("head-dim"));
    let mean = |dtype: DType| {
        let params = EngineParams { type_k: dtype, type_v: dtype, flash_attn: Some(true), ..EngineParams::default() };
        let found = logits(&model, &tokens, params);
        found.iter().zip(&reference).map(|(a, b)| (a - b).abs()).sum::<f32>() / found.len() as f32
    };
    let (f16, q8_0) = (mean(DType::F16), mean(DType::Q8_0));
    println!("mean difference: {f16:e} with f16, {q8_0:e} with q8_0");
    assert!(f16 < q8_0 && q8_0 < 32.0 * f16, "{f16} {q8_0}");
}

#[test]
fn a_cache_of_blocks_needs_rows_of_whole_blocks() {
    let params = EngineParams { type_k: DType::Q8_0, ..EngineParams::default() };
    let error = Sequence::alone(load("tied"), params).err().expect("heads of 16 hold no block of 32");
    assert!(error.to_string().starts_with("`cache-type-k`: expected f32, f16, bf16"), "{error}");
}

#[test]
fn two_threads_give_the_very_same_logits() {
    let tokens = prompt("gqa-untied");
    let (one, two) = (golden::load(FOLDER, "gqa-untied", 1), golden::load(FOLDER, "gqa-untied", 2));
    assert_eq!(logits(&one, &tokens, f32_cache()), logits(&two, &tokens, f32_cache()));
}

#[test]
fn rewinding_and_restoring_lead_to_the_same_logits() {
    let (model, tokens) = (load("biases"), prompt("biases"));
    let straight = last_logits(&model, &tokens, f32_cache());
    let mut sequence = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
    let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
    let mut other = tokens.clone();
    other[20] = (other[20] + 1) % 90;
    sequence.sync(&other, go_on).expect("it runs");
    let synced = sequence.sync(&tokens, go_on).expect("it runs");
    assert_eq!((synced.reused, synced.evaluated), (20, tokens.len() - 20));
    assert!(largest_difference(sequence.logits().expect("logits"), &straight) < F32_TOLERANCE);

    let mut state = Vec::new();
    sequence.save_state(&mut state).expect("memory takes it");
    let mut restored = Sequence::alone(model.clone(), f32_cache()).expect("a sequence");
    restored.load_state(&mut state.as_slice()).expect("the state fits");
    assert_eq!(restored.tokens(), &tokens[..]);
    assert!(largest_difference(restored.logits().expect("logits"), &straight) < F32_TOLERANCE);

    // Flash attention keeps values in rows, and what is saved does not say how they lay.
    let mut by_row =
        Sequence::alone(model.clone(), EngineParams { flash_attn: Some(true), ..f32_cache() }).expect("a sequence");
    by_row.load_state(&mut state.as_slice()).expect("the state fits");
    let mut again = Vec::new();
    by_row.save_state(&mut again).expect("memory takes it");
    assert!(again == state, "the same bytes");
    by_row.push(tokens[0]).expect("room");
    restored.push(tokens[0]).expect("room");
    let expected = restored.logits().expect("logits").to_vec();
    // f16 sums of values, as where flash attention is beside the reference.
    assert!(largest_difference(by_row.logits().expect("logits"), &expected) < 2e-2);

    let mut of_other_type = Sequence::alone(model, EngineParams::default()).expect("a sequence");
    let error = of_other_type.load_state(&mut state.as_slice()).expect_err("an f16 cache takes no f32 state");
    assert!(error.to_string().contains("f32 f32"), "{error}");
    assert!(restored.load_state(&mut &state[..state.len() / 2]).is_err(), "a state cut short");
    assert!(restored.tokens().is_empty());
}

#[test]
fn sequences_on_one_model_do_not_disturb_each_other() {
    let (model, tokens) = (load("tied"), prompt("tied"));
    let mut reversed = tokens.clone();
    reversed.reverse();
    let expected = [logits(&model, &tokens, f32_cache()), logits(&model, &reversed, f32_cache())];
    let found = std::thread::scope(|scope| {
        let threads = [&tokens, &reversed].map(|t| scope.spawn(|| logits(&model, t, f32_cache())));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(found, expected);
}

#[test]
fn a_full_context_stops_and_a_shift_goes_on() {
    let model = load("tied");
    let params = EngineParams { n_ctx: 8, ..f32_cache() };
    let mut sequence = Sequence::alone(model, params).expect("a sequence");
    for token in 1..=8 {
        sequence.push(token).expect("room");
    }
    assert_eq!(sequence.push(9).expect_err("full").to_string(), "the context of 8 tokens is full");
    let dropped = sequence.shift(2, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    assert_eq!((dropped, sequence.tokens()), (3, &[1, 2, 6, 7, 8][..]));
    sequence.push(9).expect("room again");
    assert_eq!(sequence.push(5000).expect_err("no such token").to_string(), "token 5000: expected an id below 96");
}
