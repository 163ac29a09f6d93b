//! `bench`: times prompt processing and generation by llama-bench's conventions. Owns what is run and timed; how
//! the results are printed is `report`'s.

mod report;

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::engine;
use crate::cli::{BenchArgs, Range};
use crate::gguf::File;
use crate::model::Model;
use crate::sample::{Sampler, SamplerParams};
use crate::session::{Session, SessionParams};
use crate::tokenizer::TokenId;
use report::{Report, Row};

/// One thing to time: a prompt of random tokens, single-token steps, or both one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let tests = tests(args);
    ensure!(!tests.is_empty(), super::Usage("nothing to run: every -p and -n is 0".into()));
    let threads = threads(args)?;
    let file = Arc::new(File::open(&engine::find_model(&args.model)?)?);
    let mut report = Report::new(&file, args);
    let progress = progress(threads.len() * tests.len() * args.repetitions);
    for n_threads in threads {
        let model = engine::load_model(&file, n_threads)?;
        for &test in &tests {
            let samples = time(&model, test, args, &progress)?;
            let row = Row { n_threads, test, samples, weights_bytes: weights_read(&model, test, args) };
            progress.suspend(|| report.row(&row))?;
        }
    }
    progress.finish_and_clear();
    report.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let prompts = counts(&args.n_prompt).map(|n_prompt| Test { n_prompt, n_gen: 0 });
    let generations = counts(&args.n_gen).map(|n_gen| Test { n_prompt: 0, n_gen });
    let both = args.prompt_gen.iter().map(|&(n_prompt, n_gen)| Test { n_prompt, n_gen });
    prompts.chain(generations).chain(both).filter(|test| test.n_prompt + test.n_gen > 0).collect()
}

fn counts(ranges: &[Range]) -> impl Iterator<Item = usize> {
    ranges.iter().flat_map(|range| range.0.iter().copied())
}

fn threads(args: &BenchArgs) -> anyhow::Result<Vec<usize>> {
    let mut threads: Vec<usize> = counts(&args.threads).collect();
    if threads.is_empty() {
        threads.push(engine::default_threads());
    }
    let fits = |n: &usize| (1..=512).contains(n);
    ensure!(threads.iter().all(fits), super::Usage("-t: expected 1 to 512 threads".into()));
    Ok(threads)
}

fn progress(runs: usize) -> ProgressBar {
    // Without a terminal on stderr the target draws nothing; results on the same terminal need no bar twice.
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg} [{pos}/{len}]").expect("the template is constant");
    ProgressBar::with_draw_target(Some(runs as u64), target).with_style(style)
}

/// The time of every repetition, after one warm-up.
fn time(model: &Arc<Model>, test: Test, args: &BenchArgs, progress: &ProgressBar) -> anyhow::Result<Vec<Duration>> {
    let mut runner = Runner::new(model, test, args)?;
    progress.set_message(format!("{test}, {} threads", model.device().n_threads()));
    progress.tick();
    if !args.no_warmup {
        runner.run(Test { n_gen: test.n_gen.min(1), ..test })?;
    }
    (0..args.repetitions)
        .map(|_| {
            let time = runner.run(test)?;
            progress.inc(1);
            Ok(time)
        })
        .collect()
}

/// Bytes of weights that a test reads: all of them once for each batch and each step.
fn weights_read(model: &Model, test: Test, args: &BenchArgs) -> f64 {
    (test.n_prompt.div_ceil(args.batch_size) + test.n_gen) as f64 * model.weights_bytes() as f64
}

struct Runner {
    session: Session,
    sampler: Sampler,
    prompt: Vec<TokenId>,
}

impl Runner {
    fn new(model: &Arc<Model>, test: Test, args: &BenchArgs) -> anyhow::Result<Runner> {
        // One token to start from where there is no prompt, and one sampled ahead of the clock.
        let n_ctx = test.n_prompt + test.n_gen + 2;
        let params = SessionParams { n_ctx, n_batch: args.batch_size, ..engine::cache_params(&args.cache) };
        let session = Session::new(Arc::clone(model), params).with_context(|| format!("cannot run {test}"))?;
        let sampler = Sampler::new(SamplerParams { temperature: 0.0, seed: Some(0), ..SamplerParams::default() });
        let prompt = random_tokens(test.n_prompt.max(1), model.config().n_vocab);
        Ok(Runner { session, sampler, prompt })
    }

    /// Runs a test once, from an empty context.
    fn run(&mut self, test: Test) -> anyhow::Result<Duration> {
        self.session.rewind(0);
        if test.n_prompt == 0 {
            self.session.push(self.prompt[0])?;
        }
        let start = Instant::now();
        if test.n_prompt > 0 {
            self.evaluate_prompt()?;
            if test.n_gen > 0 {
                // Comes out of the prompt's logits; evaluates nothing.
                self.session.step(&mut self.sampler)?;
            }
        }
        // Each step evaluates the token before it.
        for _ in 0..test.n_gen {
            self.session.step(&mut self.sampler)?;
        }
        Ok(start.elapsed())
    }

    fn evaluate_prompt(&mut self) -> anyhow::Result<()> {
        self.session.sync(&self.prompt, &mut |_, _| ControlFlow::Continue(()))?;
        Ok(())
    }
}

/// The same tokens in every run, so that runs can be compared.
fn random_tokens(n: usize, n_vocab: usize) -> Vec<TokenId> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    (0..n).map(|_| (rng.next_u64() % n_vocab as u64) as TokenId).collect()
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.n_prompt, self.n_gen) {
            (n_prompt, 0) => write!(f, "pp{n_prompt}"),
            (0, n_gen) => write!(f, "tg{n_gen}"),
            (n_prompt, n_gen) => write!(f, "pp{n_prompt}+tg{n_gen}"),
        }
    }
}
