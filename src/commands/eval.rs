//! `eval`: runs tasks at full depth and with an early stop, by turns, and shows both.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::engine::Engine;
use super::note;
use super::train_exit::{bar, open_task};
use crate::cli::EvalArgs;
use crate::eval::{Measured, Questions, Task, evaluate, html};
use crate::exit::{ExitFile, Fingerprint, Policy};

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let tasks: Vec<Task> =
        args.task.iter().map(|path| open_task(path, args.seed, args.shots)).collect::<anyhow::Result<_>>()?;
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
        std::fs::write(path, page).with_context(|| format!("cannot write `{}`", path.display()))?;
        note(format_args!("(written `{}`)", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn policy_of<'f>(file: &'f ExitFile, task: &Task, args: &EvalArgs) -> anyhow::Result<&'f Policy> {
    let policy = file.policies.iter().find(|p| p.task == task.name).ok_or_else(|| {
        let names: Vec<&str> = file.policies.iter().map(|p| p.task.as_str()).collect();
        anyhow!("`{}`: expected a policy for `{}`, found {}", args.exit.display(), task.name, names.join(", "))
    })?;
    if policy.labels != task.labels {
        return Err(anyhow!(
            "`{}`: `{}` was trained with the labels {:?}, the task has {:?}",
            args.exit.display(),
            task.name,
            policy.labels,
            task.labels
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

fn measure(task: &Task, policy: &Policy, engine: &mut Engine, args: &EvalArgs) -> anyhow::Result<Measured> {
    let n_layer = engine.session.model().config().n_layer;
    let questions = Questions::new(task, &engine.tokenizer)?;
    let items = &task.test[..args.rows.min(task.test.len())];
    anyhow::ensure!(!items.is_empty(), "there are no rows to test on");
    let bar = bar(items.len(), &task.name);
    let run = |engine: &mut Engine, items, fixed| {
        let Engine { session, tokenizer, .. } = engine;
        evaluate(session, tokenizer, task, &questions, items, policy, fixed, !args.no_prefix_cache, &mut |n| {
            bar.set_position(n as u64);
        })
    };
    // The baseline stops where the policy does on average, as the first rows show.
    let first = run(engine, &items[..items.len().min(20)], n_layer - 1)?;
    let fixed = (first.layers().0.round() as usize).clamp(1, n_layer - 1);
    let measured = run(engine, items, fixed)?;
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
        "accuracy_fixed_layer": m.accuracy_fixed(),
        "fixed_layer": m.fixed_layer,
        "agreement": m.agreement(),
        "mean_layers": mean,
        "var_layers": variance,
        "n_layer": m.n_layer,
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
        "| task | n | shots | accuracy, full depth | early | fixed layer | agreement | mean layers (variance) | saved | seconds, full depth | early | speed-up | ideal | efficiency |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for m in measured {
        let percent = |p: f64| format!("{:.1} % ± {:.1}", 100.0 * p, 100.0 * m.half_interval(p));
        let ((mean, variance), (full, early)) = (m.layers(), m.seconds());
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} ({}) | {} | {mean:.1} of {} ({variance:.1}) | {:.1} % | {full:.1} | {early:.1} | {:.2}x | {:.2}x | {:.3} |",
            m.task,
            m.outcomes.len(),
            m.shots,
            percent(m.accuracy_full()),
            percent(m.accuracy_early()),
            percent(m.accuracy_fixed()),
            m.fixed_layer,
            percent(m.agreement()),
            m.n_layer,
            100.0 * (1.0 - mean / m.n_layer as f64),
            m.speedup(),
            m.ideal_speedup(),
            m.speedup() / m.ideal_speedup()
        )?;
    }
    Ok(())
}
