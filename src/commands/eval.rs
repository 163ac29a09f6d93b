//! `eval`: runs tasks at full depth and with an early stop, by turns, and shows both.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::engine::Engine;
use super::note;
use super::output::write_whole;
use super::train_exit::{OWN, bar};
use crate::cli::EvalArgs;
use crate::eval::{Beside, Measured, Questions, Task, evaluate, fixed_plan, html};
use crate::exit::{ExitFile, Fingerprint, Input, Policy};
use crate::model::LayerStep;
use crate::session::Session;

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let tasks: Vec<Task> =
        args.task.iter().map(|path| Task::open(path, args.seed, args.shots)).collect::<Result<_, _>>()?;
    let mut engine = Engine::open(&args.load)?;
    let (file, warning) = ExitFile::open_for(&args.exit, &Fingerprint::of(&engine.file)?)?;
    if let Some(warning) = warning {
        note(format_args!("warning: {warning}"));
    }
    let mut measured = Vec::new();
    for task in &tasks {
        let policy = policy_of(&file, task, args)?;
        measured.push(measure(task, policy, &mut engine, args).with_context(|| format!("task `{}`", task.name))?);
    }
    let mut out = io::stdout().lock();
    if args.json {
        let rows: Vec<Value> = measured.iter().map(as_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        print(&measured, &mut out)?;
    }
    if let Some(path) = &args.report {
        let name = &engine.session.model().config().name;
        let page = html(name, &measured).map_err(|e| anyhow!("the report cannot be drawn: {e}"))?;
        write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))?;
        note(format_args!("(written `{}`)", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The task's own policy, else the one for anything.
fn policy_of<'f>(file: &'f ExitFile, task: &Task, args: &EvalArgs) -> anyhow::Result<&'f Policy> {
    let named = |name: &str| file.policies.iter().find(|p| p.task == name);
    let has_choices = matches!(task.answers, crate::eval::Answers::Choices { .. });
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

fn measure(task: &Task, policy: &Policy, engine: &mut Engine, args: &EvalArgs) -> anyhow::Result<Measured> {
    let Engine { session, tokenizer, .. } = engine;
    let n_layer = session.n_steps();
    let questions = Questions::new(task, tokenizer)?;
    let items = &task.test[..args.rows.min(task.test.len())];
    anyhow::ensure!(!items.is_empty(), "there are no rows to test on");
    let how = Beside { keep_prefix: !args.no_prefix_cache, parallel: args.parallel };
    let model = session.model().clone();
    let params = session.params().clone();
    let mut session_of = |plan: Vec<LayerStep>| Session::new(model.clone(), params.with_plan(plan));
    let bar = bar(items.len(), &task.name);
    // The baseline skips as many layers as the policy saves on average, as the first rows show.
    let mut whole = session_of(Vec::new())?;
    let first = &items[..items.len().min(20)];
    let saved = n_layer as f64 - evaluate(session, &mut whole, &questions, first, policy, how, &mut |_| {})?.layers().0;
    let n_skip = (saved.round() as usize).min(n_layer - 1);
    let chosen_on = task.training_rows(FIXED_ROWS);
    let plan = fixed_plan(session, &questions, &chosen_on, n_skip, how, &mut session_of)?;
    let mut baseline = session_of(plan)?;
    let progress = &mut |n| bar.set_position(n as u64);
    let measured = evaluate(session, &mut baseline, &questions, items, policy, how, progress)?;
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
            "| {} | {} | {} | {} | {} | {} ({}) | {} | {mean:.1} of {} ({variance:.1}) | {:.1} % | {:.1} % | {full:.1} | {early:.1} | {:.2}x | {:.2}x | {:.3} |",
            m.task,
            m.outcomes.len(),
            m.shots,
            percent(m.accuracy_full()),
            percent(m.accuracy_early()),
            percent(m.accuracy_fixed()),
            ranges(&m.skipped),
            percent(m.agreement()),
            m.n_layer,
            100.0 * (1.0 - mean / m.n_layer as f64),
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
