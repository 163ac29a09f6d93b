//! Owns `bench`: prompt and generation speed, by llama-bench's conventions.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{load_model, new_session};
use crate::cli::{BenchArgs, Form};
use crate::model::Model;
use crate::sample::{Sampler, SamplerParams};
use crate::session::{Session, TokenId};

pub(super) fn bench(mut args: BenchArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let tests: Vec<Test> = args
        .n_prompt
        .iter()
        .map(|&n| Test { n_prompt: n, n_gen: 0 })
        .chain(args.n_gen.iter().map(|&n| Test { n_prompt: 0, n_gen: n }))
        .filter(|t| t.n_prompt + t.n_gen > 0)
        .collect();
    let longest = tests.iter().map(|t| t.n_prompt + t.n_gen).max().unwrap_or(0);
    args.model.ctx_size = args.model.ctx_size.max(longest + 1);
    let model = load_model(&args.model)?;
    let mut session = new_session(&model, &args.model, args.cuts.clone())?;
    let bar = ProgressBar::new(tests.len() as u64 * (u64::from(args.repetitions) + 1));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("a valid template"));
    let mut results = Vec::new();
    for test in tests {
        bar.set_message(test.name());
        let mut samples = Vec::new();
        for repetition in 0..=args.repetitions {
            let rate = test.measure(&mut session)?;
            bar.inc(1);
            if repetition > 0 {
                samples.push(rate); // the first run is the warm-up
            }
        }
        results.push((test, samples));
    }
    bar.finish_and_clear();
    let rows: Vec<Value> = results.iter().map(|(test, samples)| row(&model, test, samples)).collect();
    match args.output {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
        Form::Csv => csv(&rows, out)?,
        Form::Md => markdown(&rows, out)?,
    }
    Ok(())
}

/// Prompt processing of `n_prompt` tokens, or generation of `n_gen`.
struct Test {
    n_prompt: usize,
    n_gen: usize,
}

impl Test {
    fn name(&self) -> String {
        if self.n_gen == 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) }
    }

    /// Tokens per second of one run.
    fn measure(&self, session: &mut Session) -> anyhow::Result<f64> {
        session.rewind(0);
        let n_vocab = session.model().config().n_vocab;
        if self.n_gen == 0 {
            // Any tokens do; these differ from one another.
            let tokens: Vec<TokenId> = (0..self.n_prompt).map(|i| (i * 7919 % n_vocab) as TokenId).collect();
            let start = Instant::now();
            session.sync(&tokens, &mut |_, _| ControlFlow::Continue(()))?;
            return Ok(self.n_prompt as f64 / start.elapsed().as_secs_f64());
        }
        let mut greedy = Sampler::new(SamplerParams { temperature: 0.0, ..SamplerParams::default() });
        session.push(0)?;
        let start = Instant::now();
        for _ in 0..self.n_gen {
            session.step(&mut greedy)?;
        }
        Ok(self.n_gen as f64 / start.elapsed().as_secs_f64())
    }
}

/// One result under llama-bench's field names, with a few of our own.
fn row(model: &Arc<Model>, test: &Test, samples: &[f64]) -> Value {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
    let tensors = model.file().tensors();
    json!({
        "model_filename": model.file().path(),
        "model_type": format!("{} {}", model.config().architecture, model.config().name),
        "model_size": tensors.iter().map(|t| t.bytes).sum::<usize>(),
        "model_n_params": tensors.iter().map(|t| t.elements()).sum::<usize>(),
        "n_threads": model.device().n_threads(),
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "test": test.name(),
        "avg_ts": mean,
        "stddev_ts": variance.sqrt(),
        "median_ts": median,
        "min_ts": sorted[0],
        "max_ts": sorted[sorted.len() - 1],
        "gb_per_s": (test.n_gen > 0).then_some(median * model.weights_bytes() as f64 / 1e9),
        "samples_ts": samples,
    })
}

const COLUMNS: [&str; 9] =
    ["model_type", "n_threads", "test", "avg_ts", "stddev_ts", "median_ts", "min_ts", "max_ts", "gb_per_s"];

fn csv(rows: &[Value], out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", COLUMNS.join(","))?;
    for row in rows {
        writeln!(out, "{}", COLUMNS.map(|c| row[c].to_string()).join(","))?;
    }
    Ok(())
}

fn markdown(rows: &[Value], out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "| model | threads | test | t/s | median | min | max | GB/s of weights |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|")?;
    for row in rows {
        let number = |c: &str| row[c].as_f64().map_or_else(String::new, |x| format!("{x:.2}"));
        writeln!(
            out,
            "| {} | {} | {} | {} ± {} | {} | {} | {} | {} |",
            row["model_type"].as_str().unwrap_or_default(),
            row["n_threads"],
            row["test"].as_str().unwrap_or_default(),
            number("avg_ts"),
            number("stddev_ts"),
            number("median_ts"),
            number("min_ts"),
            number("max_ts"),
            number("gb_per_s")
        )?;
    }
    Ok(())
}
