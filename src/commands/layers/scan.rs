//! `layers scan`: prints what every change of a layer does; keeps what is measured, and goes on from it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Lab;
use crate::cli::ScanArgs;
use crate::commands::shared::output::{Inputs, write_whole};
use crate::commands::shared::progress;
use crate::commands::shared::{INTERRUPTED, interrupt, note, rounded, screen};
use crate::eval::layers::{Change, Cosines, Done, Scan, ScanState, Sums, scan_page};
use crate::plan;
use crate::text;

/// What a file of `--resume` holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// What a scan must be of to go on from here.
    of: String,
    state: ScanState,
}

/// Between two writes of what is measured.
const KEEP_EVERY: Duration = Duration::from_secs(10);

pub(super) fn run(args: &ScanArgs) -> anyhow::Result<ExitCode> {
    let inputs = Inputs::load(&args.load)?.and(&args.text.file);
    inputs.allow(args.report.iter().chain(&args.resume).map(PathBuf::as_path))?;
    let mut lab = Lab::open(&args.load, &args.text)?;
    let of = fingerprint(&lab, args);
    let mut state = match args.resume.as_deref().filter(|path| path.exists()) {
        Some(path) => open(path, &of)?,
        None => ScanState::default(),
    };
    interrupt::watch();
    let mut scan = Scan::new(&mut lab.engine.sequence, &lab.windows);
    if let Some(path) = &args.resume {
        scan.check(&state).map_err(|why| anyhow!("`{}`: {why}", path.display()))?;
    }
    let bar = progress::counted(scan.n_runs(), "runs");
    bar.set_position(scan.n_done(&state) as u64);
    bar.reset_eta();
    let (mut last, mut failed) = (Instant::now(), None);
    let done = scan.run(&mut state, &mut |state| {
        bar.inc(1);
        let stops = interrupt::requested();
        if let Some(path) = &args.resume
            && (stops || last.elapsed() > KEEP_EVERY)
        {
            failed = keep(path, &of, state).err();
            last = Instant::now();
        }
        if stops || failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error);
    }
    let Some(done) = done else {
        match &args.resume {
            Some(path) => note(format_args!("(stopped; `--resume {}` goes on)", path.display())),
            None => note("(stopped)\nhint: with --resume FILE the next scan goes on"),
        }
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if let Some(path) = &args.resume {
        keep(path, &of, &state)?;
    }
    show(&lab, &done, args)?;
    Ok(ExitCode::SUCCESS)
}

/// Everything that a measurement depends on.
fn fingerprint(lab: &Lab, args: &ScanArgs) -> String {
    let (sequence, mut hasher) = (&lab.engine.sequence, DefaultHasher::new());
    lab.tokens.hash(&mut hasher);
    let (params, file) = (sequence.params(), sequence.model().file());
    format!(
        "{} `{}`, {} bytes, plan {}, {} tokens with hash {:x}, window {}, cache {} {}, flash attention {:?}",
        sequence.model().config().architecture,
        sequence.model().config().name,
        file.file_bytes(),
        plan::text(sequence.plan(), sequence.model().plan()),
        lab.tokens.len(),
        hasher.finish(),
        args.text.window,
        params.type_k.name(),
        params.type_v.name(),
        params.flash_attn
    )
}

fn open(path: &Path, of: &str) -> anyhow::Result<ScanState> {
    let text = text::read(path, text::KEPT_BYTES).with_context(|| format!("cannot read `{}`", path.display()))?;
    let kept: Kept = serde_json::from_str(&text).with_context(|| format!("`{}` is no scan", path.display()))?;
    ensure!(
        kept.of == of,
        "`{}`: expected a scan of {of}, found one of {:?}\nhint: another file begins a new one",
        path.display(),
        kept.of
    );
    Ok(kept.state)
}

fn keep(path: &Path, of: &str, state: &ScanState) -> anyhow::Result<()> {
    let kept = json!({ "of": of, "state": state });
    write_whole(path, |file| Ok(serde_json::to_writer(file, &kept)?))
}

fn show(lab: &Lab, done: &Done, args: &ScanArgs) -> anyhow::Result<()> {
    let config = lab.engine.sequence.model().config();
    let mut out = screen::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&as_json(lab, done))?)?;
    } else {
        print(done, &mut out)?;
    }
    drop(out);
    if let Some(path) = &args.report {
        let text = format!("{} tokens in windows of {}", lab.tokens.len() - 1, args.text.window);
        let page = scan_page(&config.name, &text, done).map_err(|e| anyhow!("the report cannot be drawn: {e}"))?;
        write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))?;
        note(format_args!("(written `{}`)", path.display()));
    }
    Ok(())
}

fn as_json(lab: &Lab, done: &Done) -> Value {
    let sums = |sums: &Sums| {
        json!({
            "n": sums.n,
            "kld": sums.mean_kld(),
            "kld_error": sums.kld_error(),
            "agreement": sums.agreement(),
            "entropy": sums.mean_entropy(),
            "loss": sums.mean_loss(),
        })
    };
    let change = |(change, measured): &(Change, Sums)| {
        let mut row = json!({ "layer": done.plan[change.place()].il, "change": change.name() });
        row.as_object_mut()
            .into_iter()
            .for_each(|row| row.extend(sums(measured).as_object().cloned().unwrap_or_default()));
        row
    };
    let cosine = |(i, c): (usize, &Cosines)| {
        let mean = |sum: f64| sum / c.n.max(1) as f64;
        json!({
            "layer": done.plan[i].il,
            "attention": c.attention.map(mean),
            "feed_forward": c.feed_forward.map(mean),
            "layer_cosine": mean(c.layer),
        })
    };
    let model = lab.engine.sequence.model();
    json!({
        "model": model.config().name,
        "plan": plan::text(&done.plan, model.plan()),
        "tokens": lab.tokens.len() - 1,
        "full": sums(&done.full),
        "changes": done.changes.iter().map(change).collect::<Vec<_>>(),
        "lens": done.lens.iter().map(sums).collect::<Vec<_>>(),
        "cosine": done.cosines.iter().enumerate().map(cosine).collect::<Vec<_>>(),
    })
}

fn print(done: &Done, out: &mut dyn Write) -> io::Result<()> {
    let full = &done.full;
    writeln!(
        out,
        "{} places; the unchanged model: loss {:.4}, entropy {:.4} (nats a token)\n\n\
         | layer | change | KL divergence | same best token | entropy | loss |\n|--:|---|--:|--:|--:|--:|",
        full.n,
        full.mean_loss(),
        full.mean_entropy()
    )?;
    for (change, sums) in &done.changes {
        writeln!(out, "| {} | {} | {} |", done.plan[change.place()].il, change.name(), cells(sums))?;
    }
    writeln!(
        out,
        "\nThe output head after so many layers:\n\n\
         | layers | KL divergence | same best token | entropy | loss |\n|--:|--:|--:|--:|--:|"
    )?;
    for (depth, sums) in done.lens.iter().enumerate() {
        writeln!(out, "| {depth} | {} |", cells(sums))?;
    }
    writeln!(
        out,
        "\nCosine between the state before a part and the state behind it:\n\n\
         | layer | attention | MLP | both |\n|--:|--:|--:|--:|"
    )?;
    for (step, c) in done.plan.iter().zip(&done.cosines) {
        let mean = |sum: f64| format!("{:.4}", sum / c.n.max(1) as f64);
        let [attention, feed_forward] = [c.attention, c.feed_forward].map(|sum| sum.map_or_else(String::new, mean));
        writeln!(out, "| {} | {attention} | {feed_forward} | {} |", step.il, mean(c.layer))?;
    }
    let agreements = |change: fn(usize) -> Change, places: std::ops::Range<usize>| {
        let found = places.filter_map(|i| done.of(change(i))).map(|sums| 100.0 * sums.agreement());
        found.fold(None, |range: Option<(f64, f64)>, x| {
            let (low, high) = range.unwrap_or((x, x));
            Some((low.min(x), high.max(x)))
        })
    };
    let n = done.plan.len();
    for (what, change, end) in [
        ("deleted", Change::Delete as fn(usize) -> Change, n - 1),
        ("swapped with its next", Change::Swap, n.saturating_sub(2)),
    ] {
        if let Some((low, high)) = agreements(change, 1..end) {
            writeln!(
                out,
                "\nOne layer {what}, first and last apart: {low:.1} to {high:.1} % of the best tokens stay."
            )?;
        }
    }
    Ok(())
}

fn cells(sums: &Sums) -> String {
    format!(
        "{} ± {:.4} | {:.1} % | {:.3} | {:.3}",
        rounded(sums.mean_kld(), 4),
        sums.kld_error(),
        100.0 * sums.agreement(),
        sums.mean_entropy(),
        sums.mean_loss()
    )
}
