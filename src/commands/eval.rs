//! `eval`: runs tasks at full depth and with an early stop, by turns, and shows both.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::shared::depth::Saved;
use super::shared::open::Opened;
use super::shared::output::{Inputs, write_whole};
use super::shared::progress;
use super::shared::{note, plan, screen};
use super::train_exit::OWN;
use crate::classify::{Answers, Questions, Task};
use crate::cli::{EvalArgs, LoadArgs, ModelArgs};
use crate::engine::Sequence;
use crate::eval::{CompareRuns, Measured, RunMode, WayDone, beside, evaluate, fixed_plan, html};
use crate::exit::{ExitFile, Fingerprint, Input, Policy};
use crate::gguf;
use crate::model::LayerStep;
use crate::plan::depth_after;

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let tasks: Vec<Task> =
        args.task.iter().map(|path| Task::open(path, args.seed, args.shots)).collect::<Result<_, _>>()?;
    let rows = tasks.iter().flat_map(|task| &task.files);
    let inputs = Inputs::load(&args.load)?.and(&args.task).and(rows).and([&args.exit]);
    let other = args.beside.as_ref().map(|path| gguf::part_paths(path));
    inputs.and(other.into_iter().flatten()).allow(args.report.as_deref())?;
    // Full depth is what everything else is beside.
    let mut engine = Opened::open(&LoadArgs { layers: None, ..args.load.clone() })?;
    let file = open_exit(args, &engine)?;
    let plan =
        args.load.layers.as_ref().map(|layers| plan::steps(Some(layers), engine.sequence.model())).transpose()?;
    let other = args.beside.as_ref().map(|path| open_other(path, args)).transpose()?;
    let (mut measured, mut ways) = (Vec::new(), Vec::new());
    for task in &tasks {
        let policy = policy_of(&file, task, args)?;
        measured.push(measure(task, policy, &mut engine, args).with_context(|| format!("task `{}`", task.name))?);
        if plan.is_some() || other.is_some() {
            let sequences = [Some(&engine), other.as_ref()].into_iter().flatten();
            ways.push(measure_ways(task, policy, sequences, plan.as_deref(), args)?);
        }
    }
    let mut out = screen::stdout();
    if args.json {
        let mut rows: Vec<Value> = measured.iter().map(as_json).collect();
        rows.iter_mut().zip(&ways).for_each(|(row, ways)| row["ways"] = ways.iter().map(way_as_json).collect());
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        print(&measured, &mut out)?;
        measured.iter().zip(&ways).try_for_each(|(m, ways)| print_ways(m, ways, &mut out))?;
    }
    if let Some(path) = &args.report {
        let name = &engine.sequence.model().config().name;
        let page = html(name, &measured).map_err(|e| anyhow!("the report cannot be drawn: {e}"))?;
        write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))?;
        note(format_args!("(written `{}`)", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn open_exit(args: &EvalArgs, engine: &Opened) -> anyhow::Result<ExitFile> {
    let (file, warning) = ExitFile::open_for(&args.exit, &Fingerprint::of(&engine.file)?)?;
    if let Some(warning) = warning {
        note(format_args!("warning: {warning}"));
    }
    Ok(file)
}

/// The other quantization, to which the exit file must belong as well.
fn open_other(path: &Path, args: &EvalArgs) -> anyhow::Result<Opened> {
    let model = ModelArgs { model: Some(path.to_owned()) };
    let engine = Opened::open(&LoadArgs { model, layers: None, ..args.load.clone() })?;
    open_exit(args, &engine)?;
    Ok(engine)
}

/// Every model file at full depth, with fewer layers, with an early stop, with both.
fn measure_ways<'e>(
    task: &Task,
    policy: &Policy,
    engines: impl Iterator<Item = &'e Opened>,
    plan: Option<&[LayerStep]>,
    args: &EvalArgs,
) -> anyhow::Result<Vec<WayDone>> {
    let mut ways = Vec::new();
    let mut questions = None;
    for (i, Opened { sequence, tokenizer, .. }) in engines.enumerate() {
        questions = questions.or(Some(Questions::new(task, tokenizer)?));
        let model = sequence.model();
        let file = model.file().path().file_name().map_or_else(String::new, |name| format!("{}: ", name.display()));
        let file = if i > 0 { file } else { String::new() };
        let text = plan.map_or_else(String::new, |plan| crate::plan::text(plan, model.plan()));
        for (plan, name) in [(Some(model.plan()), "full depth"), (plan, &text)] {
            let Some(plan) = plan else { continue };
            let early = policy.clone().placed(|layers| depth_after(plan, layers));
            for (policy, ending) in [(None, ""), (Some(early), ", early stop")] {
                let sequence = Sequence::alone(model.clone(), sequence.params().with_plan(plan.to_vec()))?;
                ways.push(RunMode { name: format!("{file}{name}{ending}"), sequence, policy });
            }
        }
    }
    let Some(questions) = questions else { return Ok(Vec::new()) };
    let items = &task.test[..args.rows.min(task.test.len())];
    let how = CompareRuns { keep_prefix: !args.no_prefix_cache, parallel: args.parallel };
    let bar = progress::counted(items.len(), &format!("{}, beside each other", task.name));
    let done = beside(&mut ways, &questions, items, how, &mut |n| bar.set_position(n as u64))?;
    bar.finish_and_clear();
    Ok(done)
}

/// The task's own policy, else the one for anything.
fn policy_of<'f>(file: &'f ExitFile, task: &Task, args: &EvalArgs) -> anyhow::Result<&'f Policy> {
    let named = |name: &str| file.policies.iter().find(|p| p.task == name);
    let has_choices = matches!(task.answers, Answers::Choices { .. });
    let policy = named(&task.name).or_else(|| named(OWN).filter(|_| !has_choices)).ok_or_else(|| {
        let names: Vec<&str> = file.policies.iter().map(|p| p.task.as_str()).collect();
        anyhow!("`{}`: expected a policy for `{}`, found {}", args.exit.display(), task.name, names.join(", "))
    })?;
    if policy.task == OWN {
        note(format_args!("`{}` has no policy for `{}`: taking `{OWN}`", args.exit.display(), task.name));
        return Ok(policy);
    }
    let of_choices = policy.input == Input::Choices;
    if policy.labels != task.labels() || of_choices != has_choices {
        return Err(anyhow!(
            "`{}`: `{}` was trained with the labels {:?}, the task has {:?}",
            args.exit.display(),
            task.name,
            policy.labels,
            task.labels()
        ));
    }
    if policy.n_shots != task.shots {
        note(format_args!(
            "warning: `{}` was trained with {} shots and runs with {}",
            task.name, policy.n_shots, task.shots
        ));
    }
    Ok(policy)
}

/// Rows that choose what the baseline skips.
const FIXED_ROWS: usize = 16;

fn measure(task: &Task, policy: &Policy, engine: &mut Opened, args: &EvalArgs) -> anyhow::Result<Measured> {
    let Opened { sequence, tokenizer, .. } = engine;
    let n_layer = sequence.n_steps();
    let questions = Questions::new(task, tokenizer)?;
    let items = &task.test[..args.rows.min(task.test.len())];
    anyhow::ensure!(!items.is_empty(), "there are no rows to test on");
    let how = CompareRuns { keep_prefix: !args.no_prefix_cache, parallel: args.parallel };
    let model = sequence.model().clone();
    let params = sequence.params().clone();
    let policy = &policy.clone().placed(|layers| depth_after(sequence.plan(), layers));
    let mut sequence_of = |plan: Vec<LayerStep>| Sequence::alone(model.clone(), params.with_plan(plan));
    let bar = progress::counted(items.len(), &task.name);
    // The baseline skips as many layers as the policy saves on average, as the first rows show.
    let mut whole = sequence_of(Vec::new())?;
    let first = &items[..items.len().min(20)];
    let saved =
        n_layer as f64 - evaluate(sequence, &mut whole, &questions, first, policy, how, &mut |_| {})?.layers().0;
    let n_skip = (saved.round() as usize).min(n_layer - 1);
    let chosen_on = task.training_rows(FIXED_ROWS);
    let plan = fixed_plan(sequence, &questions, &chosen_on, n_skip, how, &mut sequence_of)?;
    let mut baseline = sequence_of(plan)?;
    let progress = &mut |n| bar.set_position(n as u64);
    let measured = evaluate(sequence, &mut baseline, &questions, items, policy, how, progress)?;
    bar.finish_and_clear();
    Ok(measured)
}

fn as_json(m: &Measured) -> Value {
    let ((mean, variance), (full, early)) = (m.layers(), m.seconds());
    json!({
        "task": m.task,
        "n": m.outcomes.len(),
        "shots": m.shots,
        "accuracy_dense": m.accuracy_full(),
        "accuracy_exit": m.accuracy_early(),
        "accuracy_skip": m.accuracy_fixed(),
        "skipped_layers": m.skipped,
        "agreement": m.agreement(),
        "mean_layers": mean,
        "var_layers": variance,
        "n_layer": m.n_layer,
        "flop_share": m.flop_share(),
        "seconds_dense": full,
        "seconds_exit": early,
        "speedup": m.speedup(),
        "ideal_speedup": m.ideal_speedup(),
        "efficiency": m.speedup() / m.ideal_speedup(),
    })
}

fn way_as_json(way: &WayDone) -> Value {
    json!({
        "way": way.name,
        "n": way.n,
        "accuracy": way.accuracy(),
        "agreement": way.agreement(),
        "mean_layers": way.mean_layers(),
        "n_layer": way.n_layer,
        "mean_steps": way.mean_steps(),
        "n_steps": way.n_steps,
        "seconds": way.time.as_secs_f64(),
    })
}

fn print_ways(measured: &Measured, ways: &[WayDone], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\n| {} | accuracy | full depth's answer | mean layers | seconds | speed-up |\n|---|--:|--:|--:|--:|--:|",
        measured.task
    )?;
    for way in ways {
        writeln!(
            out,
            "| {} | {:.1} ± {:.1} % | {:.1} % | {:.1} of {} | {:.1} | {:.2}x |",
            way.name,
            100.0 * way.accuracy(),
            100.0 * way.half_interval(),
            100.0 * way.agreement(),
            way.mean_layers(),
            way.n_layer,
            way.time.as_secs_f64(),
            ways[0].time.as_secs_f64() / way.time.as_secs_f64().max(1e-9)
        )?;
    }
    Ok(())
}

fn print(measured: &[Measured], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "| task | n | shots | accuracy, full depth | early | layers skipped | agreement | mean layers (variance) | saved | FLOPs | seconds, full depth | early | speed-up | ideal | efficiency |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for m in measured {
        let percent = |p: f64| format!("{:.1} % ± {:.1}", 100.0 * p, 100.0 * m.half_interval(p));
        let ((mean, variance), (full, early)) = (m.layers(), m.seconds());
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} ({}) | {} | {mean:.1} of {} ({variance:.1}) | {} | {:.1} % | {full:.1} | {early:.1} | {:.2}x | {:.2}x | {:.3} |",
            m.task,
            m.outcomes.len(),
            m.shots,
            percent(m.accuracy_full()),
            percent(m.accuracy_early()),
            percent(m.accuracy_fixed()),
            ranges(&m.skipped),
            percent(m.agreement()),
            m.n_layer,
            Saved::of(mean, m.n_layer as f64),
            100.0 * m.flop_share(),
            m.speedup(),
            m.ideal_speedup(),
            m.speedup() / m.ideal_speedup()
        )?;
    }
    Ok(())
}

/// `12-20` for neighbouring layers, `none` for none.
fn ranges(layers: &[usize]) -> String {
    match layers {
        [] => "none".to_owned(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    }
}
