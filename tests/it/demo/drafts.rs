//! Drafts, stops and roll-backs leave no trace: whatever is expected, the tokens are full depth's.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::common::demo_model;
use curtail::dtype::DType;
use curtail::engine::{Batch, EngineParams, Sequence, TokenId};
use curtail::exit::{Checkpoint, Lens, Probe, Scorer};
use curtail::generate::{Decoder, Kv, Mode, Options, Source};
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::{LayerStep, Model};
use curtail::plan::{Depth, Half};
use curtail::sample::{Sampler, SamplerParams};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn model() -> Arc<Model> {
    let file = Arc::new(File::open(Path::new(&demo_model())).expect("a model file"));
    Arc::new(Model::load(file, Device::cpu(1).expect("a CPU")).expect("it loads"))
}

fn sequence(model: &Arc<Model>, draft_plan: Vec<LayerStep>) -> Sequence {
    let params = EngineParams { n_ctx: 256, draft_plan, ..EngineParams::default() };
    Sequence::alone(model.clone(), params).expect("a sequence")
}

fn start(sequence: &mut Sequence, prompt: &[TokenId]) {
    sequence.sync(prompt, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
}

fn prompt(rng: &mut StdRng) -> Vec<TokenId> {
    (0..rng.random_range(2..20)).map(|_| rng.random_range(100..40_000)).collect()
}

/// Without the last two layers, and without attention in four.
fn draft_plan() -> Vec<LayerStep> {
    let without_some = |step: LayerStep| match step.il {
        20..24 => step.without(Half::Attention).expect("the other half"),
        _ => step,
    };
    (0..28).map(LayerStep::whole).map(without_some).collect()
}

/// Random drafts, right and wrong, at random depths, in batches of up to 16; rewinds and new prompts between.
#[test]
fn random_drafts_never_change_what_is_generated() {
    let model = model();
    for seed in 0..8 {
        let mut rng = StdRng::seed_from_u64(seed);
        let temperature = if seed % 2 == 0 { 0.0 } else { 0.8 };
        let sampler = || Sampler::new(SamplerParams { temperature, seed: Some(seed), ..SamplerParams::default() });
        // Keys of 8 bits have no kernel of our own: there rows are run one by one.
        let type_k = if seed % 4 < 2 { DType::F16 } else { DType::Q8_0 };
        let of = |draft_plan| {
            let params = EngineParams { n_ctx: 256, type_k, draft_plan, ..EngineParams::default() };
            Sequence::alone(model.clone(), params).expect("a sequence")
        };
        let (mut plain, mut sequence) = (of(Vec::new()), of(draft_plan()));
        let (mut sampler_plain, mut sampler) = (sampler(), sampler());
        let mut tokens = prompt(&mut rng);
        for _ in 0..3 {
            start(&mut plain, &tokens);
            start(&mut sequence, &tokens);
            let n = rng.random_range(10..30);
            let expected: Vec<TokenId> =
                (0..n).map(|_| plain.step(&mut sampler_plain).expect("a token").token).collect();
            let mut found = Vec::new();
            while found.len() < n {
                if !sequence.has_logits() && sequence.n_drafts() == 0 {
                    expect_some(&mut sequence, &expected[found.len()..], &mut rng);
                }
                found.push(sequence.step(&mut sampler).expect("a token").token);
            }
            assert_eq!(found, expected, "seed {seed}");
            assert_eq!(sequence.tokens(), plain.tokens());
            // Both go on from an earlier place, with what the user says next.
            tokens = plain.tokens().to_vec();
            tokens.truncate(tokens.len() - rng.random_range(0..3));
            tokens.extend(prompt(&mut rng));
            if rng.random_bool(0.3) {
                let kept = rng.random_range(1..tokens.len());
                sequence.rewind(kept);
                plain.rewind(kept);
            }
        }
        start(&mut plain, &tokens);
        start(&mut sequence, &tokens);
        assert_eq!(sequence.logits().expect("logits"), plain.logits().expect("logits"), "seed {seed}: to the bit");
    }
}

/// Puts drafts behind the timeline: mostly what will come, found in one way or another.
fn expect_some(sequence: &mut Sequence, coming: &[TokenId], rng: &mut StdRng) {
    for &next in coming.iter().take(rng.random_range(0..16)) {
        if rng.random_bool(0.4) {
            sequence.hidden_state_at(Depth(rng.random_range(1..30))).expect("it runs");
        }
        if rng.random_bool(0.4) {
            sequence.run_draft_plan().expect("it runs"); // of a row that has come some way, too
        }
        let token = if rng.random_bool(0.85) { next } else { rng.random_range(0..49_000) };
        sequence.draft(token, Depth(1)).expect("a token");
    }
}

/// Checkpoints that are sure at random, with and without a lens.
fn checkpoints(rng: &mut StdRng) -> Vec<Checkpoint<Depth>> {
    let n_embd = 576;
    let mut random = |n: usize, size: f32| (0..n).map(|_| rng.random_range(-size..size)).collect::<Vec<f32>>();
    let mut checkpoint = |at, lens| Checkpoint {
        at: Depth(at),
        lens,
        probe: Some(Probe { weights: random(2 * n_embd, 0.1), bias: vec![0.0; 2] }),
        scorer: Scorer::Top,
        threshold: 0.5,
    };
    let identity = (0..n_embd * n_embd).map(|i| f32::from(i % (n_embd + 1) == 0)).collect();
    let lens = Lens { weights: identity, bias: vec![0.01; n_embd] };
    vec![checkpoint(16, None), checkpoint(24, Some(lens)), checkpoint(28, None)]
}

/// All sources of drafts, one to sixteen at once, greedy and sampled: full depth's tokens, and the same random numbers.
#[test]
fn verified_tokens_are_full_depths_whatever_drafts_them() {
    let model = model();
    let mut rng = StdRng::seed_from_u64(3);
    let checkpoints = checkpoints(&mut rng);
    let sources =
        [Source::Checkpoints, Source::Depth(Depth(24)), Source::Depth(Depth(9)), Source::Plan, Source::Lookup];
    let modes = sources.map(Mode::Verified).into_iter().chain([Mode::Auto]);
    // Something to look up.
    let phrase = prompt(&mut rng);
    let prompt = [&phrase[..], &phrase, &phrase[..2]].concat();
    for (i, mode) in modes.enumerate() {
        for (most, temperature) in [(1, 0.0), (4, 0.7), (16, 0.0)] {
            let params = SamplerParams { temperature, seed: Some(i as u64), ..SamplerParams::default() };
            let (mut plain, mut sequence) = (sequence(&model, Vec::new()), sequence(&model, draft_plan()));
            let (mut sampler_plain, mut sampler) = (Sampler::new(params.clone()), Sampler::new(params));
            let options =
                Options { mode, source: Source::Lookup, checkpoints: checkpoints.clone(), kv: Kv::Deferred, most };
            let mut decoder = Decoder::new(options);
            let mut tokens = prompt.clone();
            for _ in 0..2 {
                start(&mut plain, &tokens);
                start(&mut sequence, &tokens);
                for n in 0..14 {
                    let expected = plain.step(&mut sampler_plain).expect("a token").token;
                    let found = decoder.step(&mut sequence, &mut sampler).expect("a token").token;
                    assert_eq!(found, expected, "{mode:?}, {most} at once, token {n}");
                }
                // An answer is taken back in part, as /undo and a stop string do.
                tokens = sequence.tokens().to_vec();
                tokens.truncate(tokens.len() - 5);
                tokens.extend(&phrase);
            }
            if most > 1 && !matches!(mode, Mode::Auto | Mode::Verified(Source::Lookup)) {
                assert!(decoder.tally().drafted > 0, "{mode:?} drafts");
            }
        }
    }
}

/// What a checkpoint is sure of stands, and no more tokens than allowed wait for their deeper layers.
#[test]
fn fast_tokens_stand_and_few_wait() {
    let model = model();
    let mut rng = StdRng::seed_from_u64(4);
    let options = Options {
        mode: Mode::Fast,
        source: Source::Lookup,
        checkpoints: checkpoints(&mut rng),
        kv: Kv::Deferred,
        most: 3,
    };
    let mut decoder = Decoder::new(options);
    let mut sequence = sequence(&model, Vec::new());
    start(&mut sequence, &prompt(&mut rng));
    let mut sampler = Sampler::greedy();
    let mut depths = Vec::new();
    for _ in 0..40 {
        depths.push(decoder.step(&mut sequence, &mut sampler).expect("a token").depth.0);
        assert!(sequence.n_pending() <= 5, "{}", sequence.n_pending()); // three, the last before and the new one
    }
    assert!(depths.iter().all(|layers| [16, 24, 28, 30].contains(layers)) && depths.contains(&30), "{depths:?}");
    assert!(depths.iter().any(|&layers| layers < 30), "{depths:?}");
}

/// A last token that is deeper than a checkpoint already has nothing to show there; one that has been through all layers stops
/// nowhere, and goes again for its logits.
#[test]
fn checkpoints_behind_the_last_token_are_passed_by() {
    let model = model();
    let mut rng = StdRng::seed_from_u64(4);
    let prompt = prompt(&mut rng);
    let sure = |checkpoint: Checkpoint<Depth>| Checkpoint { threshold: 0.0, ..checkpoint };
    let checkpoints: Vec<Checkpoint<Depth>> = checkpoints(&mut rng).into_iter().map(sure).collect();
    for (gone, expected) in [(0, 16), (16, 16), (20, 24), (28, 28), (29, 30), (30, 30)] {
        let mut sequence = sequence(&model, Vec::new());
        start(&mut sequence, &prompt);
        sequence.push(500).expect("room");
        if gone > 0 {
            let engine = sequence.engine().clone();
            let mut batch = Batch::default();
            batch.add_to_depth(&mut sequence, Depth(gone));
            engine.forward(&mut batch).expect("it runs");
        }
        let (mode, checkpoints) = (Mode::Fast, checkpoints.clone());
        let options = Options { mode, source: Source::Checkpoints, checkpoints, kv: Kv::Deferred, most: 4 };
        let step = Decoder::new(options).step(&mut sequence, &mut Sampler::greedy()).expect("a token");
        assert_eq!(step.depth, Depth(expected), "after {gone} steps");
    }
}

/// Keys and values made of an early state are those that a model whose other layers do nothing would write; a token that is
/// not seen is as good as absent from the deeper layers.
#[test]
fn published_approximations_are_what_they_say() {
    let model = model();
    let mut rng = StdRng::seed_from_u64(9);
    let prompt = prompt(&mut rng);
    let run = |end: fn(&mut Sequence), depth: usize| {
        let mut sequence = sequence(&model, Vec::new());
        start(&mut sequence, &prompt);
        sequence.push(500).expect("room");
        sequence.hidden_state_at(Depth(depth)).expect("it runs");
        end(&mut sequence);
        assert_eq!(sequence.n_pending(), 0);
        sequence.push(900).expect("room");
        sequence.logits().expect("logits").to_vec()
    };
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let mut full = sequence(&model, Vec::new());
    start(&mut full, &prompt);
    full.push(500).expect("room");
    full.push(900).expect("room");
    let full = full.logits().expect("logits").to_vec();
    let propagate: fn(&mut Sequence) = |sequence| sequence.propagate_kv().expect("it runs");
    let mask_kv: fn(&mut Sequence) = Sequence::mask_kv;
    // One layer is missing, or nearly all; the keys of the last layer are made of the state before it all the same.
    let near = [run(propagate, 29), run(mask_kv, 29)].map(|logits| distance(&logits, &full));
    let far = [run(propagate, 2), run(mask_kv, 2)].map(|logits| distance(&logits, &full));
    assert!(near[0] <= 1e-3, "the last layer's keys come from the state that full depth has there: {near:?}");
    assert!(near[1] > 1e-3 && far[0] > near[0] && far[1] > near[1], "{near:?} {far:?}");
    // Rewinding forgets what was hidden.
    let mut sequence = sequence(&model, Vec::new());
    start(&mut sequence, &prompt);
    sequence.push(500).expect("room");
    sequence.hidden_state_at(Depth(2)).expect("it runs");
    sequence.mask_kv();
    sequence.rewind(prompt.len());
    sequence.push(500).expect("room");
    sequence.push(900).expect("room");
    assert!(sequence.logits().expect("logits") == full, "to the bit");
}

/// A timeline whose tokens stopped early settles to what full depth gives.
#[test]
fn tokens_that_stopped_early_catch_up_to_the_bit() {
    let model = model();
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(100 + seed);
        let prompt = prompt(&mut rng);
        let (mut plain, mut sequence) = (sequence(&model, Vec::new()), sequence(&model, Vec::new()));
        start(&mut plain, &prompt);
        start(&mut sequence, &prompt);
        for _ in 0..20 {
            let token = rng.random_range(100..40_000);
            plain.push(token).expect("room");
            plain.logits().expect("logits");
            sequence.push(token).expect("room");
            match rng.random_range(0..4) {
                0 => drop(sequence.logits().expect("logits")),
                1 => {}
                _ => drop(sequence.hidden_state_at(Depth(rng.random_range(1..30))).expect("it runs")),
            }
            if rng.random_bool(0.1) {
                let kept = sequence.tokens().len() - 1;
                sequence.rewind(kept);
                plain.rewind(kept);
            }
        }
        assert_eq!(sequence.logits().expect("logits"), plain.logits().expect("logits"), "seed {seed}");
        assert_eq!(sequence.n_pending(), 0);
    }
}

/// Tokens that follow drafts, right and wrong ones, come as often as the full model's probabilities say: Pearson's
/// chi-squared over the eight most probable.
#[test]
fn tokens_after_drafts_have_the_full_models_distribution() {
    const TRIALS: usize = 500;
    /// The distribution with seven degrees of freedom is above this once in a thousand times.
    const MOST: f64 = 24.3;
    let model = model();
    let prompt: Vec<TokenId> = (0..6).map(|i| 400 + 37 * i).collect();
    let chances = |logits: &[f32]| {
        let mut best: Vec<(TokenId, f64)> = (0..).zip(logits.iter().map(|&x| f64::from(x))).collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1));
        best.truncate(8);
        let sum: f64 = best.iter().map(|(_, x)| x.exp()).sum();
        best.into_iter().map(|(token, x)| (token, x.exp() / sum)).collect::<Vec<_>>()
    };
    let mut plain = sequence(&model, Vec::new());
    start(&mut plain, &prompt);
    let first = chances(plain.logits().expect("logits"));
    plain.push(first[0].0).expect("room");
    let second = chances(plain.logits().expect("logits"));

    let mut sequence = sequence(&model, Vec::new());
    start(&mut sequence, &prompt);
    let (mut after_prompt, mut after_draft) = (Vec::new(), Vec::new());
    for seed in 0..TRIALS {
        sequence.rewind(prompt.len());
        // Mostly what is most probable, sometimes something else, and a wrong draft behind it.
        let draft = if seed % 4 == 3 { first[1].0 } else { first[0].0 };
        sequence.draft(draft, Depth(1)).expect("room");
        sequence.draft(77, Depth(1)).expect("room");
        let params = SamplerParams { temperature: 1.0, top_k: 8, top_p: 1.0, min_p: 0.0, ..SamplerParams::default() };
        let mut sampler = Sampler::new(SamplerParams { seed: Some(seed as u64), ..params });
        let token = sequence.step(&mut sampler).expect("a token").token;
        after_prompt.push(token);
        if token == first[0].0 {
            after_draft.push(sequence.step(&mut sampler).expect("a token").token);
        }
    }
    for (found, chances) in [(after_prompt, first), (after_draft, second)] {
        let expected = |p: f64| p * found.len() as f64;
        let squares: f64 = chances
            .iter()
            .map(|&(token, p)| {
                (found.iter().filter(|t| **t == token).count() as f64 - expected(p)).powi(2) / expected(p)
            })
            .sum();
        assert!(found.len() > 50 && squares < MOST, "{squares} of {} tokens, {chances:?}", found.len());
    }
}
