//! `train-exit`: runs tasks at full depth, fits when to stop, writes the exit file.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::engine::Engine;
use super::note;
use crate::cli::{InputArg, PresetArg, RuleArg, TargetArg, TrainExitArgs};
use crate::eval::{Questions, Task, collect};
use crate::exit::{ExitFile, Fingerprint, Input, Options, Policy, Target, Trained, train};

pub(super) fn run(args: &TrainExitArgs) -> anyhow::Result<ExitCode> {
    let tasks: Vec<Task> =
        args.task.iter().map(|path| open_task(path, args.seed, args.shots)).collect::<anyhow::Result<_>>()?;
    let mut engine = Engine::open(&args.load)?;
    let options = options(args);
    let model = Fingerprint::of(&engine.file)?;
    let mut policies = Vec::new();
    for task in &tasks {
        policies.push(fit(task, &mut engine, args, &options).with_context(|| format!("task `{}`", task.name))?);
    }
    ExitFile { model, policies }.save(&args.output)?;
    note(format_args!("(written `{}`)", args.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// A task with the number of shots that the user wants.
pub(super) fn open_task(path: &std::path::Path, seed: u64, shots: Option<usize>) -> anyhow::Result<Task> {
    let mut task = Task::open(path, seed)?;
    if let Some(shots) = shots {
        let most = task.train.len();
        anyhow::ensure!(
            shots <= most,
            "`--shots`: expected at most {most}, the rows of `{}`, found {shots}",
            task.name
        );
        task.shots = shots;
    }
    Ok(task)
}

pub(super) fn bar(n: usize, name: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta}").expect("the template is constant");
    ProgressBar::with_draw_target(Some(n as u64), target).with_style(style).with_message(name.to_owned())
}

fn options(args: &TrainExitArgs) -> Options {
    let (input, target, rule) = match args.preset {
        Some(PresetArg::Adainfer) => (InputArg::Vocabulary, TargetArg::Model, RuleArg::Svm),
        None => (args.input, args.target, args.rule),
    };
    Options {
        input: match input {
            InputArg::Hidden => Input::Hidden,
            InputArg::Labels => Input::Labels,
            InputArg::Vocabulary => Input::Vocabulary,
        },
        target: if target == TargetArg::Model { Target::Model } else { Target::Truth },
        svm: rule == RuleArg::Svm,
        agreement: args.agreement.into(),
        loss: args.loss.into(),
        seed: args.seed,
    }
}

fn fit(task: &Task, engine: &mut Engine, args: &TrainExitArgs, options: &Options) -> anyhow::Result<Policy> {
    let n_layer = engine.session.model().config().n_layer;
    let first = args.from_layer.unwrap_or(match args.preset {
        Some(PresetArg::Adainfer) => 1,
        None => (n_layer / 5).max(1),
    });
    anyhow::ensure!(first < n_layer, "`--from-layer`: expected at most {}, found {first}", n_layer - 1);
    let layers: Vec<usize> = (first..n_layer).collect();
    let questions = Questions::new(task, &engine.tokenizer)?;
    let items = &task.training_rows()[..args.rows.min(task.training_rows().len())];
    let bar = bar(items.len(), &task.name);
    let start = Instant::now();
    let rows = collect(&mut engine.session, &engine.tokenizer, &questions, items, &layers, options.input, &mut |n| {
        bar.set_position(n as u64);
    })?;
    bar.finish_and_clear();
    let collected = start.elapsed();
    let start = Instant::now();
    let trained = train(&rows, &layers, n_layer, options).map_err(|why| anyhow!(why))?;
    let full = rows.iter().filter(|r| r.full == r.truth).count() as f64 / rows.len() as f64;
    print(task, &layers, n_layer, full, rows.len(), &trained, options)?;
    note(format_args!(
        "{} rows collected in {:.1} s, fitted in {:.1} s",
        rows.len(),
        collected.as_secs_f64(),
        start.elapsed().as_secs_f64()
    ));
    Ok(Policy {
        task: task.name.clone(),
        labels: task.labels.clone(),
        input: options.input,
        target: options.target,
        n_rows: rows.len(),
        n_shots: task.shots,
        checkpoints: trained.checkpoints,
    })
}

fn print(
    task: &Task,
    layers: &[usize],
    n_layer: usize,
    full: f64,
    n: usize,
    trained: &Trained,
    options: &Options,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let target = options.target.name();
    writeln!(out, "{}: {n} rows, {} shots, full depth right at {:.1} %", task.name, task.shots, 100.0 * full)?;
    writeln!(out, "\n| after layer | best label is the {target}'s | stop here |\n|--:|--:|--:|")?;
    for ((layer, right), stops) in layers.iter().zip(&trained.right_by_layer).zip(&trained.stops_by_layer) {
        writeln!(out, "| {layer} | {:.1} % | {:.1} % |", 100.0 * right, 100.0 * stops)?;
    }
    writeln!(
        out,
        "\nExpected on rows not seen: {:.1} % the {target}'s answer, {:.1} of {n_layer} layers, {:.1} % saved\n",
        100.0 * trained.right,
        trained.mean_layers,
        100.0 * (1.0 - trained.mean_layers / n_layer as f64)
    )
}
