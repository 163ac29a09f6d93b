//! The search for drafts that pay on the model at hand, by trying them beside full depth: prints a table.

use std::io::Write;
use std::sync::Arc;

use crate::cli::DraftArg;
use crate::commands::shared::exits;
use crate::commands::shared::open::Opened;
use crate::commands::shared::progress;
use crate::commands::shared::screen;
use crate::engine::{EngineParams, Sequence, TokenId};
use crate::eval::{Excerpt, agreement};
use crate::exit::{Checkpoint, Draft};
use crate::generate::{Kv, Mode, Options, Raced, Source, race};
use crate::model::LayerStep;
use crate::plan::{Depth, Half, Layers};

/// Prompts that drafts are tried on, and tokens generated for each.
const PROMPTS: usize = 6;
const TOKENS: usize = 64;

/// Own tokens that a run without some part of a layer is compared on.
const COMPARED: usize = 384;

/// Drafts at once that are tried, as long as more is faster.
const AT_ONCE: [usize; 4] = [1, 2, 4, 8];

/// Drafts must be this much faster than full depth to be written down: less is noise.
const PAYS: f64 = 1.02;

struct Search<'a> {
    engine: &'a Opened,
    checkpoints: &'a [Checkpoint<Depth>],
    prompts: Vec<Vec<TokenId>>,
    best: Option<(f64, Draft)>,
}

/// Tries every kind of source; gives the one that pays most, if one does.
pub(super) fn search(
    engine: &Opened,
    checkpoints: &[Checkpoint<Depth>],
    answers: &[Excerpt],
) -> anyhow::Result<Option<Draft>> {
    let prompt = |(prefix, part): &Excerpt| [&prefix[..], &part[..1]].concat();
    let prompts = answers.iter().rev().take(PROMPTS).map(prompt).collect();
    let mut search = Search { engine, checkpoints, prompts, best: None };
    let n_layer = engine.sequence.n_steps();
    let mut sources = vec![DraftArg::Lookup];
    if !checkpoints.is_empty() {
        sources.push(DraftArg::Checkpoints);
    }
    let mut depths: Vec<usize> = [0.5, 0.67, 0.8, 0.9].iter().map(|share| (share * n_layer as f64) as usize).collect();
    depths.push(n_layer - 1);
    depths.retain(|&depth| depth > 0);
    depths.dedup();
    sources.extend(depths.into_iter().map(DraftArg::Layer));
    sources.extend(search.skips(answers)?);

    let bar = progress::counted(sources.len(), "drafts");
    writeln!(screen::stdout(), "| drafts from | at once | right | of full depth's speed |\n|---|--:|--:|--:|")?;
    for source in sources {
        let (most, raced) = search.best_of(&source)?;
        let (right, speed) = (100.0 * raced.accepted, raced.speed);
        bar.suspend(|| writeln!(screen::stdout(), "| {source} | {most} | {right:.1} % | {speed:.3} |"))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let best = search.best.filter(|(speed, _)| *speed > PAYS).map(|(_, draft)| draft);
    let kept = best.as_ref().map_or("none of them pays".to_owned(), |draft| format!("kept: {}", draft.source));
    writeln!(screen::stdout(), "\n{kept}\n")?;
    Ok(best)
}

impl Search<'_> {
    fn sequence(&self, params: EngineParams) -> anyhow::Result<Sequence> {
        let params = EngineParams { n_ctx: self.engine.sequence.n_ctx().min(1024), ..params };
        Ok(Sequence::alone(Arc::clone(self.engine.sequence.model()), params)?)
    }

    /// Sets of parts to leave out, of rising size: first those without which most tokens stay the same.
    fn skips(&self, answers: &[Excerpt]) -> anyhow::Result<Vec<DraftArg>> {
        let n_layer = self.engine.sequence.n_steps();
        let halves = [Half::Attention, Half::FeedForward];
        let part = |step: &LayerStep, half: Half| step.has(half).then(|| format!("{}:{}", step.il, half.name()));
        let plan = self.engine.sequence.plan();
        let parts: Vec<String> =
            plan.iter().flat_map(|step| halves.into_iter().filter_map(move |half| part(step, half))).collect();
        let skip = |parts: &[String]| anyhow::Ok(DraftArg::Skip(Layers::parse_skips(&parts.join(","))?));
        let bar = progress::counted(parts.len(), "parts of layers");
        let mut ranked = Vec::new();
        for part in parts {
            let (plan, _) = self.resolve(&skip(std::slice::from_ref(&part))?)?;
            let mut sequence = self.sequence(self.engine.sequence.params().with_plan(plan))?;
            ranked.push((agreement(&mut sequence, answers, COMPARED)?, part));
            bar.inc(1);
        }
        bar.finish_and_clear();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let sizes = [1, 2, 4, 6, 9, 12, 16, 20].map(|of_thirty| (of_thirty * n_layer).div_ceil(30));
        let best = |size| ranked.iter().take(size).map(|(_, part)| part.clone()).collect::<Vec<_>>();
        sizes.into_iter().map(|size| skip(&best(size))).collect()
    }

    fn resolve(&self, source: &DraftArg) -> anyhow::Result<(Vec<LayerStep>, Source)> {
        let sequence = &self.engine.sequence;
        exits::resolve(source, sequence.model(), sequence.plan())
    }

    /// The number of drafts at once that is fastest.
    fn best_of(&mut self, source: &DraftArg) -> anyhow::Result<(usize, Raced)> {
        let (draft_plan, of_decoder) = self.resolve(source)?;
        let mut sequence = self.sequence(EngineParams { draft_plan, ..self.engine.sequence.params().clone() })?;
        let options = |most| Options {
            mode: Mode::Verified(of_decoder),
            source: of_decoder,
            checkpoints: self.checkpoints.to_vec(),
            kv: Kv::Deferred,
            most,
        };
        race(&mut sequence, &options(1), &self.prompts[..1], TOKENS)?; // graphs are built, copies are made
        let mut best: Option<(usize, Raced)> = None;
        for most in AT_ONCE {
            let raced = race(&mut sequence, &options(most), &self.prompts, TOKENS)?;
            if best.is_some_and(|(_, before)| before.speed > raced.speed) {
                break;
            }
            best = Some((most, raced));
        }
        let (most, raced) = best.expect("one was tried");
        if self.best.as_ref().is_none_or(|(speed, _)| raced.speed > *speed) {
            self.best = Some((raced.speed, Draft { source: source.to_string(), most: most as u32 }));
        }
        Ok((most, raced))
    }
}
