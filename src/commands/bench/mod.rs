//! `bench`: times prompt processing and generation by llama-bench's conventions. Owns what is run and timed; how
//! the results are printed is `report`'s.

mod report;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::shared::depth::LayersPerToken;
use super::shared::exits::Exits;
use super::shared::{open, progress};
use crate::cli::{BenchArgs, ExitArg, ExitArgs, Range};
use crate::engine::{EngineParams, Sequence};
use crate::exit::{Checkpoint, Probe, Scorer};
use crate::generate::{self, Decoder, Kv, Mode, Options, Source};
use crate::gguf::File;
use crate::model::{Config, LayerStep, Model};
use crate::plan::{self, Depth, Half};
use crate::sample::{Sampler, SamplerParams};
use crate::tokenizer::TokenId;
use report::{Look, Report, Row};

/// One thing to time: a prompt of random tokens, single-token steps, or both one after the other, behind a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
}

/// How tokens are generated.
#[derive(Clone, Debug, PartialEq)]
enum How {
    /// At full depth.
    Dense,
    /// As the early-exit flags say.
    Exit(&'static str),
    /// Stopping after given numbers of layers.
    Forced,
    /// Looking after given numbers of layers, and going on.
    Looks,
}

impl How {
    fn name(&self) -> &'static str {
        match self {
            How::Dense => "off",
            How::Exit(mode) => mode,
            How::Forced => "forced",
            How::Looks => "looks",
        }
    }
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let tests = tests(args);
    ensure!(!tests.is_empty(), super::Usage("nothing to run: every -p and -n is 0".into()));
    let threads = threads(args)?;
    let file = Arc::new(File::open(&open::find_model(&args.model)?)?);
    let mut report = Report::new(&file, args);
    let n_runners = hows(args).len() * (1 + args.layers.len());
    let progress = progress::counted(threads.len() * tests.len() * args.repetitions * n_runners, "");
    for n_threads in threads {
        let params = EngineParams { n_ctx: most_tokens(&tests), ..engine_params(args) };
        let model = open::load_model(&file, n_threads, &args.devices, &params)?;
        let plans = plans(&model, args)?;
        for &test in &tests {
            let mut runners = runners(&model, &file, test, args, &plans)?;
            let samples = time(&mut runners, test, args, &progress)?;
            let full = median(&samples[0]);
            let n_hows = runners.len() / plans.len();
            for (runners, samples) in runners.chunks_mut(n_hows).zip(samples.chunks(n_hows)) {
                let rows = rows(runners, samples, n_threads, test, args, full)?;
                rows.iter().try_for_each(|row| progress.suspend(|| report.row(row)))?;
            }
        }
    }
    progress.finish_and_clear();
    report.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// What the runners of one plan, full depth first, have to show.
fn rows(
    runners: &mut [Runner],
    samples: &[Vec<Duration>],
    n_threads: usize,
    test: Test,
    args: &BenchArgs,
    full: f64,
) -> anyhow::Result<Vec<Row>> {
    let n_layer = runners[0].sequence.n_steps() as f64;
    let (dense, all_heads) = (median(&samples[0]), test.n_gen as f64 * runners[0].head_time()?);
    let all_layers = dense - all_heads;
    let row = |(runner, samples): (&Runner, &Vec<Duration>)| {
        let time = median(samples);
        let of_ideal =
            (runner.how == How::Forced).then(|| (dense - all_layers * (1.0 - runner.forced_mean() / n_layer)) / time);
        let look = (runner.how == How::Looks).then(|| {
            let seconds = (time - dense) / (test.n_gen * args.look_layers.len()) as f64;
            Look { us: 1e6 * seconds, of_layer: seconds * test.n_gen as f64 * n_layer / all_layers }
        });
        let sequence = &runner.sequence;
        let placement = sequence.model().placement();
        let at = |il: usize| &placement.devices()[placement.of_layer(il)];
        let mut backends = Vec::new();
        for il in 0..sequence.model().config().n_layer {
            let backend = at(il).backend();
            if !backends.contains(&backend) {
                backends.push(backend);
            }
        }
        let last = sequence.model().config().n_layer - 1;
        Row {
            backends: backends.join(","),
            n_gpu_layers: (0..=last).filter(|&il| !at(il).is_cpu()).count(),
            flash_attn: sequence.params().fuses_attention_on(at(last)),
            n_threads,
            test,
            samples: samples.clone(),
            weights_bytes: weights_read(&runner.sequence, test, args),
            plan: plan::text(runner.sequence.plan(), runner.sequence.model().plan()),
            of_full: full / time,
            exit: runner.how.name(),
            layers: runner.layers,
            of_ideal,
            look,
        }
    };
    Ok(runners.iter().zip(samples).map(row).collect())
}

/// Full depth, and what is timed beside it.
fn plans(model: &Model, args: &BenchArgs) -> anyhow::Result<Vec<Vec<LayerStep>>> {
    let asked = args.layers.iter().map(|layers| super::shared::plan::steps(Some(layers), model));
    [Ok(model.plan().to_vec())].into_iter().chain(asked).collect()
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let prompts = counts(&args.n_prompt).map(|n_prompt| (n_prompt, 0));
    let generations = counts(&args.n_gen).map(|n_gen| (0, n_gen));
    let all: Vec<(usize, usize)> = prompts.chain(generations).chain(args.prompt_gen.iter().copied()).collect();
    let at = |n_depth| all.iter().map(move |&(n_prompt, n_gen)| Test { n_prompt, n_gen, n_depth });
    counts(&args.n_depth).flat_map(at).filter(|test| test.n_prompt + test.n_gen > 0).collect()
}

fn counts(ranges: &[Range]) -> impl Iterator<Item = usize> {
    ranges.iter().flat_map(|range| range.0.iter().copied())
}

fn threads(args: &BenchArgs) -> anyhow::Result<Vec<usize>> {
    let asked: Vec<usize> = counts(&args.threads).collect();
    let Some(&most) = asked.iter().max() else { return Ok(vec![open::default_threads()]) };
    ensure!(!asked.contains(&0), super::Usage("-t: expected at least 1 thread, found 0".into()));
    let most = open::helpful_threads("-t", most);
    let mut threads = Vec::new();
    for n in asked.into_iter().map(|n| n.min(most)) {
        // What is more than helps is timed once.
        if n != most || !threads.contains(&most) {
            threads.push(n);
        }
    }
    Ok(threads)
}

/// What is timed of a generation, full depth first.
fn hows(args: &BenchArgs) -> Vec<How> {
    let mode = args.exits.exit.filter(|mode| *mode != ExitArg::Off);
    let mode = mode.or(args.exits.draft.is_some().then_some(ExitArg::Verified));
    let exit = mode.map(|mode| match mode {
        ExitArg::Off | ExitArg::Fast => How::Exit("fast"),
        ExitArg::Verified => How::Exit("verified"),
        ExitArg::Auto => How::Exit("auto"),
    });
    let forced = (!args.exit_layers.is_empty()).then_some(How::Forced);
    let looks = (!args.look_layers.is_empty()).then_some(How::Looks);
    [How::Dense].into_iter().chain(exit).chain(forced).chain(looks).collect()
}

fn runners(
    model: &Arc<Model>,
    file: &File,
    test: Test,
    args: &BenchArgs,
    plans: &[Vec<LayerStep>],
) -> anyhow::Result<Vec<Runner>> {
    let hows = if test.n_gen > 0 { hows(args) } else { vec![How::Dense] };
    let all = plans.iter().flat_map(|plan| hows.iter().map(move |how| (plan, how)));
    all.map(|(plan, how)| Runner::new(model, file, test, args, how.clone(), plan)).collect()
}

/// The time of every repetition of every runner, by turns, after one warm-up.
fn time(
    runners: &mut [Runner],
    test: Test,
    args: &BenchArgs,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Vec<Duration>>> {
    progress.set_message(format!("{test}, {} threads", runners[0].sequence.model().device().n_threads()));
    progress.tick();
    let mut samples = vec![Vec::new(); runners.len()];
    for runner in runners.iter_mut() {
        if !args.no_warmup {
            // Modes that measure what pays begin to do so here.
            let n_gen = if runner.how == How::Dense { test.n_gen.min(1) } else { test.n_gen };
            runner.run(Test { n_gen, ..test })?;
        }
    }
    for _ in 0..args.repetitions {
        for (runner, samples) in runners.iter_mut().zip(&mut samples) {
            samples.push(runner.run(test)?);
            progress.inc(1);
        }
    }
    Ok(samples)
}

/// In seconds.
fn median(times: &[Duration]) -> f64 {
    generate::median(times.iter().map(Duration::as_secs_f64)).unwrap_or(0.0)
}

/// Bytes of weights that a test reads: all that the plan runs once for each batch and each step.
fn weights_read(sequence: &Sequence, test: Test, args: &BenchArgs) -> f64 {
    let model = sequence.model();
    let of = |step: &LayerStep| -> f64 {
        let parts = [(Half::Attention, "attn"), (Half::FeedForward, "ffn")].map(|(half, name)| {
            let prefix = format!("blk.{}.{name}_", step.il);
            step.has(half).then_some(prefix)
        });
        let runs = |name: &str| parts.iter().flatten().any(|part| name.starts_with(part));
        model.file().tensors().iter().filter(|tensor| runs(&tensor.name)).map(|tensor| tensor.bytes as f64).sum()
    };
    let all = |plan: &[LayerStep]| plan.iter().map(of).sum::<f64>();
    let bytes = model.weights_bytes() as f64 - all(model.plan()) + all(sequence.plan());
    (test.n_prompt.div_ceil(args.batch_size) + test.n_gen) as f64 * bytes
}

fn engine_params(args: &BenchArgs) -> EngineParams {
    EngineParams { n_batch: args.batch_size, ..open::cache_params(&args.cache) }
}

/// Tokens that the longest test takes: one to start from where there is no prompt; and where some are generated, one sampled
/// ahead of the clock.
fn most_tokens(tests: &[Test]) -> usize {
    let ahead = |test: &Test| if test.n_gen > 0 { test.n_gen + 2 } else { 0 };
    let of = |test: &Test| test.n_depth + test.n_prompt + ahead(test);
    tests.iter().map(of).max().unwrap_or(0)
}

struct Runner {
    how: How,
    sequence: Sequence,
    decoder: Decoder,
    forced: Vec<Depth>,
    sampler: Sampler,
    prompt: Vec<TokenId>,
    /// Of the last run.
    layers: LayersPerToken,
}

impl Runner {
    fn new(
        model: &Arc<Model>,
        file: &File,
        test: Test,
        args: &BenchArgs,
        how: How,
        plan: &[LayerStep],
    ) -> anyhow::Result<Runner> {
        let off = ExitArgs { exit: Some(ExitArg::Off), ..args.exits.clone() };
        let exits = if matches!(how, How::Exit(_)) { &args.exits } else { &off };
        let exits = Exits::new(exits, file, model, plan)?;
        let params = EngineParams { n_ctx: most_tokens(&[test]), ..engine_params(args) }.with_plan(plan.to_vec());
        let params = exits.params(params);
        let decoder =
            if how == How::Looks { blind(&args.look_layers, model.config(), plan.len())? } else { exits.decoder };
        let params = EngineParams { probes: decoder.probes(), ..params };
        let sequence = Sequence::alone(Arc::clone(model), params).with_context(|| format!("cannot run {test}"))?;
        let sampler = Sampler::new(SamplerParams { temperature: 0.0, seed: Some(0), ..SamplerParams::default() });
        let prompt = random_tokens(test.n_depth + test.n_prompt.max(1), model.config().n_vocab);
        let forced = args.exit_layers.iter().copied().map(Depth).collect();
        let layers = LayersPerToken { executed: 0.0, needed: 0.0, n_layer: model.config().n_layer };
        Ok(Runner { how, sequence, decoder, forced, sampler, prompt, layers })
    }

    /// Runs a test once, behind its context, which is evaluated by the first run.
    fn run(&mut self, test: Test) -> anyhow::Result<Duration> {
        self.sequence.rewind(test.n_depth);
        if self.sequence.tokens().len() < test.n_depth {
            self.evaluate(test.n_depth)?;
        }
        if test.n_prompt == 0 {
            self.sequence.push(self.prompt[test.n_depth])?;
        }
        let start = Instant::now();
        if test.n_prompt > 0 {
            self.evaluate(test.n_depth + test.n_prompt)?;
            if test.n_gen > 0 {
                // Comes out of the prompt's logits; evaluates nothing.
                self.sequence.step(&mut self.sampler)?;
            }
        }
        let before = self.sequence.engine().layers_executed();
        let mut needed = 0.0;
        // Each step evaluates the token before it.
        for i in 0..test.n_gen {
            needed += match self.how {
                How::Dense => self.sequence.step(&mut self.sampler)?.layers,
                How::Exit(_) | How::Looks => self.decoder.step(&mut self.sequence, &mut self.sampler)?.layers,
                How::Forced => self.step_forced(self.forced[i % self.forced.len()])?,
            }
        }
        let time = start.elapsed();
        let mean = |sum: f64| sum / test.n_gen.max(1) as f64;
        self.layers.executed = mean(self.sequence.engine().layers_executed() - before);
        self.layers.needed = mean(needed);
        Ok(time)
    }

    /// A token from a depth of the plan: what that is worth in layers.
    fn step_forced(&mut self, depth: Depth) -> anyhow::Result<f64> {
        if depth >= self.sequence.full_depth() {
            return Ok(self.sequence.step(&mut self.sampler)?.layers);
        }
        self.sequence.limit_logits(&self.sampler);
        let hidden = self.sequence.hidden_state_at(depth)?;
        let logits = self.sequence.logits_of_states(&hidden)?;
        let token = self.sampler.sample(&logits, self.sequence.tokens());
        self.sequence.push(token)?;
        Ok(self.sequence.layers_at(depth))
    }

    /// Mean of the forced depths.
    fn forced_mean(&self) -> f64 {
        let full = self.sequence.full_depth();
        self.forced.iter().map(|&depth| depth.min(full).0 as f64).sum::<f64>() / self.forced.len() as f64
    }

    /// Seconds of the output head for one token: the median of some.
    fn head_time(&mut self) -> anyhow::Result<f64> {
        let state = vec![1.0; self.sequence.model().config().n_embd];
        self.sequence.limit_logits(&self.sampler);
        let mut times = Vec::new();
        for _ in 0..9 {
            let start = Instant::now();
            self.sequence.logits_of_states(&state)?;
            times.push(start.elapsed());
        }
        Ok(median(&times))
    }

    fn evaluate(&mut self, n_tokens: usize) -> anyhow::Result<()> {
        self.sequence.sync(&self.prompt[..n_tokens], &mut |_, _| ControlFlow::Continue(()))?;
        Ok(())
    }
}

/// Looks at what every token's confidence would be read from, and is never sure.
fn blind(layers: &[usize], config: &Config, n_steps: usize) -> anyhow::Result<Decoder> {
    let mut layers = layers.to_vec();
    layers.sort_unstable();
    layers.dedup();
    let most = n_steps - 1;
    ensure!(layers.iter().all(|&l| l <= most), super::Usage(format!("--look-layers: expected 1 to {most}")));
    let probe = Probe { weights: vec![0.0; 2 * config.n_embd], bias: vec![0.0; 2] };
    let look =
        |at| Checkpoint { at: Depth(at), lens: None, probe: Some(probe.clone()), scorer: Scorer::Top, threshold: 2.0 };
    let checkpoints = layers.into_iter().map(look).collect();
    let options = Options { mode: Mode::Fast, source: Source::Checkpoints, checkpoints, kv: Kv::Deferred, most: 1 };
    Ok(Decoder::new(options))
}

/// The same tokens in every run, so that runs can be compared.
fn random_tokens(n: usize, n_vocab: usize) -> Vec<TokenId> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    (0..n).map(|_| (rng.next_u64() % n_vocab as u64) as TokenId).collect()
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.n_prompt, self.n_gen) {
            (n_prompt, 0) => write!(f, "pp{n_prompt}")?,
            (0, n_gen) => write!(f, "tg{n_gen}")?,
            (n_prompt, n_gen) => write!(f, "pp{n_prompt}+tg{n_gen}")?,
        }
        if self.n_depth > 0 { write!(f, " @ d{}", self.n_depth) } else { Ok(()) }
    }
}
