//! Many sequences on one engine: each has the bits that it has alone, whatever runs beside it.

use std::path::Path;
use std::sync::Arc;

use crate::common::demo_model;
use curtail::engine::{Batch, Engine, EngineParams, Error, Prefix, Sequence, TokenId};
use curtail::ggml::{Device, Isa, isa};
use curtail::gguf::File;
use curtail::model::Model;
use curtail::plan::Depth;
use curtail::sample::{Sampler, SamplerParams};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const N_LAYER: usize = 30;

fn model() -> Arc<Model> {
    let file = File::open(Path::new(&demo_model())).expect("a model file");
    Arc::new(Model::load(Arc::new(file), Device::cpu(1).expect("a CPU")).expect("it loads"))
}

fn engine(model: &Arc<Model>, n_seq: usize) -> Engine {
    let params = EngineParams { n_ctx: 256, n_seq, n_batch: 24, ..EngineParams::default() };
    Engine::new(model.clone(), params).expect("an engine")
}

fn some_tokens(rng: &mut StdRng, most: usize) -> Vec<TokenId> {
    (0..rng.random_range(1..=most)).map(|_| rng.random_range(100..40_000)).collect()
}

/// What is done with a sequence.
#[derive(Clone, Debug)]
enum Act {
    /// Text that is given.
    Append(Vec<TokenId>),
    /// The next token, at full depth.
    Step,
    /// The last token's hidden state after so many layers.
    Depth(usize),
    /// Tokens that may come next.
    Draft(Vec<TokenId>),
    /// So many tokens are forgotten.
    Forget(usize),
}

/// The life of a sequence.
struct Script {
    seed: u64,
    shares_prefix: bool,
    acts: Vec<Act>,
}

impl Script {
    fn new(seed: u64) -> Script {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut acts = vec![Act::Append(some_tokens(rng, 40))];
        for _ in 0..rng.random_range(3..14) {
            acts.push(match rng.random_range(0..10) {
                0 => Act::Append(some_tokens(rng, 30)),
                1 | 2 => Act::Depth(rng.random_range(1..N_LAYER)),
                3 => Act::Draft(some_tokens(rng, 4)),
                4 => {
                    let most = if rng.random_bool(0.3) { 120 } else { 8 };
                    Act::Forget(rng.random_range(1..most))
                }
                _ => Act::Step,
            });
        }
        acts.push(Act::Step);
        Script { seed, shares_prefix: rng.random_bool(0.5), acts }
    }

    fn sampler(&self) -> Sampler {
        let temperature = if self.seed.is_multiple_of(2) { 0.0 } else { 0.9 };
        Sampler::new(SamplerParams { temperature, seed: Some(self.seed), ..SamplerParams::default() })
    }
}

/// A sequence on its way through a script, with all that was found.
struct Life<'s> {
    script: &'s Script,
    sequence: Sequence,
    sampler: Sampler,
    at: usize,
    found: Vec<Vec<f32>>,
}

impl<'s> Life<'s> {
    fn new(script: &'s Script, sequence: Sequence) -> Life<'s> {
        Life { script, sequence, sampler: script.sampler(), at: 0, found: Vec::new() }
    }

    fn next(&self) -> Option<&'s Act> {
        self.script.acts.get(self.at)
    }

    /// Does the next act; what was evaluated for it before is not evaluated again.
    fn act(&mut self) {
        let sequence = &mut self.sequence;
        match self.script.acts[self.at].clone() {
            Act::Append(tokens) => sequence.append(&tokens).expect("room"),
            Act::Step => {
                self.found.push(sequence.logits().expect("logits").to_vec());
                let step = sequence.step(&mut self.sampler).expect("a token");
                self.found.push(vec![step.token as f32]);
            }
            // A text whose last token has gone on has no state there any more.
            Act::Depth(depth) if sequence.n_pending() > 0 => {
                self.found.push(sequence.hidden_state_at(Depth(depth)).unwrap_or_default());
            }
            Act::Depth(_) => {}
            Act::Draft(tokens) => tokens.iter().for_each(|&token| sequence.draft(token, Depth(1)).expect("a token")),
            Act::Forget(n) => sequence.rewind(sequence.tokens().len().saturating_sub(n).max(1)),
        }
        self.at += 1;
    }
}

/// A prefix and what remains of the scripts, some of which follow it.
fn begin(engine: &Engine, prefix: Option<&Prefix>) -> Result<Sequence, Error> {
    prefix.map_or_else(|| engine.sequence(), |prefix| engine.sequence_after(prefix))
}

fn alone(model: &Arc<Model>, script: &Script, prefix: &[TokenId]) -> Vec<Vec<f32>> {
    let engine = engine(model, 1);
    let mut sequence = engine.sequence().expect("room");
    if script.shares_prefix {
        sequence.append(prefix).expect("room");
        sequence.logits().expect("logits");
    }
    let mut life = Life::new(script, sequence);
    while life.next().is_some() {
        life.act();
    }
    life.found
}

/// Lets sequences come, run together in batches of any of them, and end.
fn together(model: &Arc<Model>, scripts: &[Script], prefix: &[TokenId], rng: &mut StdRng) -> Vec<Vec<Vec<f32>>> {
    let engine = engine(model, 5);
    let mut first = engine.sequence().expect("room");
    first.append(prefix).expect("room");
    let prefix = first.into_prefix().expect("a prefix");
    let mut found = vec![Vec::new(); scripts.len()];
    let (mut waiting, mut lives) = ((0..scripts.len()).rev().collect::<Vec<_>>(), Vec::<(usize, Life<'_>)>::new());
    while !waiting.is_empty() || !lives.is_empty() {
        if lives.is_empty() || rng.random_bool(0.4) {
            while let Some(&i) = waiting.last() {
                let shared = scripts[i].shares_prefix.then_some(&prefix);
                let Ok(sequence) = begin(&engine, shared) else { break };
                lives.push((i, Life::new(&scripts[i], sequence)));
                waiting.pop();
            }
        }
        let mut batch = Batch::default();
        for (_, life) in &mut lives {
            let goes_along = rng.random_bool(0.8);
            match life.next() {
                Some(Act::Step) if goes_along => batch.add(&mut life.sequence),
                Some(&Act::Depth(depth)) if goes_along && life.sequence.n_pending() > 0 => {
                    batch.add_to_depth(&mut life.sequence, Depth(depth));
                }
                _ => {}
            }
        }
        engine.forward(&mut batch).expect("it runs");
        lives.iter_mut().filter(|_| rng.random_bool(0.8)).for_each(|(_, life)| life.act());
        for (i, life) in lives.extract_if(.., |(_, life)| life.next().is_none()) {
            found[i] = life.found;
        }
    }
    found
}

#[test]
fn every_sequence_has_the_bits_that_it_has_alone() {
    if isa() < Isa::Avx2 {
        return; // there is no kernel of ours, and ggml's add up by how many rows there are
    }
    let model = model();
    for seed in 0..2 {
        let mut rng = StdRng::seed_from_u64(seed);
        let scripts: Vec<Script> = (0..8).map(|i| Script::new(100 * seed + i)).collect();
        let prefix = some_tokens(&mut rng, 100);
        let found = together(&model, &scripts, &prefix, &mut rng);
        for (script, found) in scripts.iter().zip(&found) {
            let expected = alone(&model, script, &prefix);
            assert_eq!(found.len(), expected.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let differs = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
                assert!(
                    differs.is_none() && found.len() == expected.len(),
                    "script {}, finding {i}: {differs:?} of {}; {:?}",
                    script.seed,
                    found.len(),
                    script.acts
                );
            }
        }
    }
}

#[test]
fn sequences_are_refused_by_name_where_there_is_no_room_or_another_engine() {
    let model = model();
    let engine_of_two = engine(&model, 2);
    let (mut one, two) = (engine_of_two.sequence().expect("room"), engine_of_two.sequence().expect("room"));
    let error = engine_of_two.sequence().err().expect("no room").to_string();
    assert_eq!(error, "no room for another sequence: expected at most 2 at once");
    drop(two);
    assert!(engine_of_two.sequence().is_ok(), "what has ended leaves its room");
    let mut batch = Batch::default();
    batch.add(&mut one);
    assert!(matches!(engine_of_two.forward(&mut batch), Err(Error::Empty)));
    one.append(&[1, 2, 3]).expect("room");
    let mut batch = Batch::default();
    batch.add(&mut one);
    let error = engine(&model, 1).forward(&mut batch).expect_err("another engine").to_string();
    assert!(error.contains("expected sequences of the engine that runs it"), "{error}");
    let error = one.append(&[5; 300]).expect_err("no room").to_string();
    assert_eq!(error, "the context of 256 tokens is full");
}

/// Back to where a prefix is in the middle, or at its end: the last token of it is evaluated again, and not for the others.
#[test]
fn a_sequence_that_goes_back_into_its_prefix_leaves_it_to_the_others() {
    if isa() < Isa::Avx2 {
        return; // as above
    }
    let (model, mut rng) = (model(), StdRng::seed_from_u64(5));
    let prefix: Vec<TokenId> = (0..64).map(|_| rng.random_range(100..40_000)).collect();
    let expected = |n: usize, more: &[TokenId]| {
        let mut sequence = engine(&model, 1).sequence().expect("room");
        sequence.append(&prefix).expect("room");
        sequence.logits().expect("logits");
        sequence.rewind(n);
        sequence.append(more).expect("room");
        sequence.logits().expect("logits").to_vec()
    };
    let engine = engine(&model, 3);
    let mut first = engine.sequence().expect("room");
    first.append(&prefix).expect("room");
    let prefix_of_both = first.into_prefix().expect("a prefix");
    let mut other = engine.sequence_after(&prefix_of_both).expect("room");
    for (n, more) in [(64, &[][..]), (63, &[]), (17, &[]), (40, &[5, 6, 7][..])] {
        let mut sequence = engine.sequence_after(&prefix_of_both).expect("room");
        sequence.rewind(n);
        sequence.append(more).expect("room");
        assert!(sequence.logits().expect("logits") == expected(n, more), "{n} tokens of the prefix");
    }
    other.append(&[9, 8]).expect("room");
    assert!(other.logits().expect("logits") == expected(64, &[9, 8]), "the prefix is as it was");
}

#[test]
fn depths_and_prefixes_that_are_not_there_are_refused() {
    let model = model();
    let engine_of_two = engine(&model, 2);
    let mut sequence = engine_of_two.sequence().expect("room");
    sequence.append(&[1, 2, 3]).expect("room");
    for depth in [0, N_LAYER, N_LAYER + 9] {
        let error = sequence.hidden_state_at(Depth(depth)).expect_err("no such depth").to_string();
        assert!(error.contains("expected layers between 1 and 29"), "{error}");
    }
    let mut batch = Batch::default();
    batch.add_to_depth(&mut sequence, Depth(N_LAYER + 9));
    assert!(engine_of_two.forward(&mut batch).is_err());
    let prefix = sequence.into_prefix().expect("a prefix");
    let error = engine(&model, 2).sequence_after(&prefix).err().expect("another engine").to_string();
    assert!(error.contains("expected sequences of the engine that runs it"), "{error}");
}

/// What one sequence did not let deeper layers see says nothing of the next one in its place.
#[test]
fn a_new_sequence_sees_all_of_its_rows() {
    let model = model();
    let engine = engine(&model, 1);
    let logits = |masks: bool| {
        let mut sequence = engine.sequence().expect("room");
        sequence.append(&[11, 12, 13, 14]).expect("room");
        if masks {
            sequence.hidden_state_at(Depth(3)).expect("it runs");
            sequence.mask_kv();
        }
        sequence.append(&[15, 16]).expect("room");
        sequence.logits().expect("logits").to_vec()
    };
    let plain = logits(false);
    assert!(logits(true) != plain, "masked rows are missed");
    assert!(logits(false) == plain, "and only by who masked them");
}

/// Rows that one sequence hides from its deeper layers are a matter of its own: another that runs beside it needs no mask.
#[test]
fn hidden_rows_change_no_other_sequence() {
    let model = model();
    let logits = |hides: bool| {
        let engine = engine(&model, 2);
        let (mut one, mut other) = (engine.sequence().expect("room"), engine.sequence().expect("room"));
        one.append(&[11, 12, 13, 14]).expect("room");
        one.hidden_state_at(Depth(3)).expect("it runs");
        if hides {
            one.mask_kv();
        }
        one.append(&[15, 16]).expect("room");
        other.append(&[21, 22, 23, 24, 25]).expect("room");
        let mut found = Vec::new();
        for token in [31, 32, 33] {
            let mut batch = Batch::default();
            batch.add(&mut one);
            batch.add(&mut other);
            engine.forward(&mut batch).expect("it runs");
            found.push([&mut one, &mut other].map(|sequence| sequence.logits().expect("logits").to_vec()));
            one.push(token).expect("room");
            other.push(token).expect("room");
        }
        found
    };
    for ([seen, plain], [hidden, beside]) in logits(false).into_iter().zip(logits(true)) {
        assert!(hidden != seen, "hidden rows are missed");
        assert!(beside == plain, "by nobody else, to the bit");
    }
}
