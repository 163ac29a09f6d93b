//! `layers prune`: searches what to leave out, prints what that costs and saves, and writes a plan or a smaller model.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{anyhow, ensure};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{Lab, write};
use crate::cli::{MethodArg, PartsArg, PruneArgs};
use crate::commands::shared::output::{Inputs, write_whole};
use crate::commands::shared::progress;
use crate::commands::shared::{interrupt, note, rounded, screen};
use crate::eval::layers::{
    Limits, Method, Part, Point, Search, Sums, Window, measure_costs, measure_speed, parts_of, prune_page,
};
use crate::model::LayerStep;
use crate::plan::{self, Half};

/// Tokens that speed is measured on.
const TIMED: usize = 48;

pub(super) fn run(args: &PruneArgs) -> anyhow::Result<ExitCode> {
    let inputs = Inputs::load(&args.load)?.and(&args.text.file);
    let outputs = [&args.output, &args.write, &args.report];
    inputs.allow(outputs.into_iter().flatten().map(PathBuf::as_path))?;
    let mut lab = Lab::open(&args.load, &args.text)?;
    let [decide, check] = halves(&lab.windows);
    ensure!(!check.is_empty(), "the text: expected at least two windows of {} tokens", args.text.window);
    let limits = Limits { loss: args.loss, speed: args.speed, skip: args.skip }.or_default();
    interrupt::watch();
    let sequence = &mut lab.engine.sequence;
    let (model, params, unpruned) = (sequence.model().clone(), sequence.params().clone(), sequence.plan().to_vec());
    let costs = measure_costs(&model, &params, &unpruned, args.at_context, TIMED)?;
    let bar = progress::told();
    let mut search = Search::new(sequence, [&decide, &check], costs)?;
    let points =
        search.run(parts(args, &unpruned), method(args), limits, &mut |gone, tried| tell(&bar, gone, tried))?;
    bar.finish_and_clear();
    let chosen = limits.chosen(&points);
    let measured = measure_speed(&model, &params, &unpruned, &chosen.plan, args.at_context, TIMED)?;
    let text = plan::text(&chosen.plan, model.plan());
    let found = Found { points: &points, chosen, text: &text, measured, unpruned: &unpruned };
    let mut out = screen::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found.as_json())?)?;
    } else {
        found.print(&mut out)?;
    }
    drop(out);
    if let Some(wanted) = args.speed.filter(|wanted| chosen.speed < *wanted) {
        note(format_args!("warning: {wanted}x was wanted, {:.3}x is expected within the other limits", chosen.speed));
    }
    found.save(args, &lab)?;
    Ok(ExitCode::SUCCESS)
}

/// Windows that decide, and windows that check, by turns through the text.
fn halves(windows: &[Window]) -> [Vec<Window>; 2] {
    [0, 1].map(|first| windows.iter().skip(first).step_by(2).cloned().collect())
}

fn method(args: &PruneArgs) -> Method {
    match args.method {
        MethodArg::Latter => Method::Latter,
        MethodArg::Measured => Method::Measured,
        MethodArg::Greedy => Method::Greedy(args.tries),
    }
}

fn parts(args: &PruneArgs, plan: &[LayerStep]) -> Vec<Part> {
    let default = if args.method == MethodArg::Latter { PartsArg::Attn } else { PartsArg::Any };
    let (attention, feed_forward) = (Half::Attention, Half::FeedForward);
    let (halves, whole) = match args.parts.unwrap_or(default) {
        PartsArg::Attn => (vec![attention], false),
        PartsArg::Mlp => (vec![feed_forward], false),
        PartsArg::Halves => (vec![attention, feed_forward], false),
        PartsArg::Layers => (Vec::new(), true),
        PartsArg::Any => (vec![attention, feed_forward], true),
    };
    parts_of(plan, &halves, whole)
}

fn tell(bar: &ProgressBar, gone: usize, tried: usize) -> ControlFlow<()> {
    bar.set_message(format!("{gone} parts left out, {tried} runs for the next"));
    bar.tick();
    if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What a search found.
struct Found<'f> {
    points: &'f [Point],
    chosen: &'f Point,
    /// The chosen plan.
    text: &'f str,
    /// How many times as fast a token is with it.
    measured: f64,
    unpruned: &'f [LayerStep],
}

impl Found<'_> {
    fn name(&self, point: &Point) -> String {
        let Some(part) = point.part else { return "nothing".to_owned() };
        let half = part.half.map_or_else(String::new, |half| format!(":{}", half.name()));
        format!("~{}{half}", self.unpruned[part.place].il)
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "CompareRuns the unpruned model, on windows that had no part in the choice:\n\n\
             | parts left out | the last of them | expected speed | same best token | KL divergence | perplexity | |\n\
             |--:|---|--:|--:|--:|--:|---|"
        )?;
        for (n, point) in self.points.iter().enumerate() {
            let sums = &point.checked_on;
            writeln!(
                out,
                "| {n} | {} | {:.3}x | {:.1} % | {} ± {:.4} | {:+.1} % | {} |",
                self.name(point),
                point.speed,
                100.0 * sums.agreement(),
                rounded(sums.mean_kld(), 4),
                sums.kld_error(),
                100.0 * sums.rise(&self.points[0].checked_on),
                if std::ptr::eq(point, self.chosen) { "chosen" } else { "" }
            )?;
        }
        writeln!(out, "\n{}\n\nMeasured by turns, it generates a token {:.3} times as fast.", self.text, self.measured)
    }

    fn as_json(&self) -> Value {
        let sums = |sums: &Sums, base: &Sums| {
            json!({
                "n": sums.n,
                "kld": sums.mean_kld(),
                "agreement": sums.agreement(),
                "loss": sums.mean_loss(),
                "perplexity_rise": sums.rise(base),
            })
        };
        let first = &self.points[0];
        let point = |point: &Point| {
            json!({
                "left_out": self.name(point),
                "plan": plan::text(&point.plan, self.unpruned),
                "expected_speed": point.speed,
                "decides": sums(&point.chosen_on, &first.chosen_on),
                "checks": sums(&point.checked_on, &first.checked_on),
                "chosen": std::ptr::eq(point, self.chosen),
            })
        };
        json!({
            "plan": self.text,
            "measured_speed": self.measured,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
        })
    }

    fn save(&self, args: &PruneArgs, lab: &Lab) -> anyhow::Result<()> {
        let model = lab.engine.sequence.model();
        let (name, sums) = (&model.config().name, &self.chosen.checked_on);
        if let Some(path) = &args.output {
            write_whole(path, |file| {
                writeln!(file, "# curtail layers prune, {name}")?;
                writeln!(
                    file,
                    "# expected speed {:.3}x, same best token {:.1} %, KL divergence {:.4}, perplexity {:+.1} %",
                    self.chosen.speed,
                    100.0 * sums.agreement(),
                    sums.mean_kld(),
                    100.0 * sums.rise(&self.points[0].checked_on)
                )?;
                Ok(writeln!(file, "{}", self.text)?)
            })?;
            note(format_args!("(written `{}`)", path.display()));
        }
        if let Some(path) = &args.write {
            write::write(model.file(), &self.chosen.plan, path)?;
            note(format_args!("(written `{}`)", path.display()));
        }
        if let Some(path) = &args.report {
            let page = prune_page(name, self.points, self.chosen, |point| self.name(point));
            let page = page.map_err(|e| anyhow!("the report cannot be drawn: {e}"))?;
            write_whole(path, |file| Ok(file.write_all(page.as_bytes())?))?;
            note(format_args!("(written `{}`)", path.display()));
        }
        Ok(())
    }
}
