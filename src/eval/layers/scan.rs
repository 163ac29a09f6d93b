//! Owns the scan: every layer deleted, swapped with the next, and halved; the output head at every depth; how far each
//! sublayer turns the state. What comes before a change is computed once per window and shared by all of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::compare::{Base, Sums};
use super::{Part, Window};
use crate::engine::{Sequence, Shown};
use crate::eval::Error;
use crate::model::LayerStep;
use crate::plan::{Depth, Half, Runs};

/// A change of one place in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The step is gone.
    Delete(usize),
    /// It runs after the next one.
    Swap(usize),
    /// It has no attention.
    DropAttention(usize),
    /// It has no feed-forward network.
    DropFeedForward(usize),
}

/// A changed plan, and where it begins to differ.
pub(super) struct Changed {
    pub(super) plan: Vec<LayerStep>,
    /// Up to where it is as before.
    pub(super) depth: Depth,
    /// The state they end with: how many halves of the unchanged plan come before it.
    pub(super) halves: usize,
}

impl Change {
    /// All changes of a plan that are possible.
    pub fn all(plan: &[LayerStep]) -> Vec<Change> {
        let of = |i: usize| {
            let is_whole = plan[i].runs == Runs::Full;
            let halves = is_whole.then_some([Change::DropAttention(i), Change::DropFeedForward(i)]);
            let swap = (i + 1 < plan.len()).then_some(Change::Swap(i));
            let delete = (plan.len() > 1).then_some(Change::Delete(i));
            delete.into_iter().chain(swap).chain(halves.into_iter().flatten())
        };
        (0..plan.len()).flat_map(of).collect()
    }

    /// The place that changes.
    pub fn place(self) -> usize {
        match self {
            Change::Delete(i) | Change::Swap(i) | Change::DropAttention(i) | Change::DropFeedForward(i) => i,
        }
    }

    /// What is done to it.
    pub fn name(self) -> &'static str {
        match self {
            Change::Delete(_) => "delete",
            Change::Swap(_) => "swap",
            Change::DropAttention(_) => "drop-attn",
            Change::DropFeedForward(_) => "drop-mlp",
        }
    }

    /// The plan with the change.
    pub fn apply(self, plan: &[LayerStep]) -> Vec<LayerStep> {
        self.changed(plan).plan
    }

    pub(super) fn changed(self, plan: &[LayerStep]) -> Changed {
        let i = self.place();
        let before: usize = plan[..i].iter().map(n_halves).sum();
        let mut changed = Changed { plan: plan.to_vec(), depth: Depth(i), halves: before };
        match self {
            Change::Delete(_) => drop(changed.plan.remove(i)),
            Change::Swap(_) => changed.plan.swap(i, i + 1),
            Change::DropAttention(_) => changed.plan[i] = without(plan[i], Half::Attention),
            Change::DropFeedForward(_) => {
                changed.plan[i] = without(plan[i], Half::FeedForward);
                // Its attention runs as before: the state behind that is known too.
                (changed.depth, changed.halves) = (Depth(i + 1), before + 1);
            }
        }
        changed
    }
}

/// The plan half by half: the same run, with a state between any two.
pub(super) fn halved(plan: &[LayerStep]) -> Vec<LayerStep> {
    let halves = |step: &LayerStep| {
        let step = *step;
        step.halves().filter_map(move |half| step.only(half))
    };
    plan.iter().flat_map(halves).collect()
}

fn n_halves(step: &LayerStep) -> usize {
    step.halves().count()
}

/// A step that loses one half: a change that takes the last one deletes the step instead.
fn without(step: LayerStep, half: Half) -> LayerStep {
    step.without(half).expect("a step that loses a half has another")
}

/// Runs `changed` on a window of which the states before every half of the unchanged plan are known.
pub(super) fn run_changed(
    sequence: &mut Sequence,
    window: &Window,
    states: &[Vec<f32>],
    changed: Changed,
    out: &mut Shown,
) -> Result<(), Error> {
    sequence.replan(changed.plan)?;
    Ok(sequence.resume(&window.tokens, changed.depth, &states[changed.halves], &window.shown, out)?)
}

/// Sums over places of the cosine between the state before a part and the state behind it, its own contribution added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cosines {
    /// Places.
    pub n: usize,
    /// Attention; nothing where the step has none.
    pub attention: Option<f64>,
    /// Feed-forward network.
    pub feed_forward: Option<f64>,
    /// Both.
    pub layer: f64,
}

impl Cosines {
    fn add(&mut self, other: &Cosines) {
        let sum = |a: Option<f64>, b: Option<f64>| a.map_or(b, |a| b.map(|b| a + b));
        self.n += other.n;
        self.attention = sum(self.attention, other.attention);
        self.feed_forward = sum(self.feed_forward, other.feed_forward);
        self.layer += other.layer;
    }
}

/// What is measured so far; the part of it that is worth keeping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScanState {
    windows: Vec<OfWindow>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct OfWindow {
    /// The unchanged model; nothing before the window has begun.
    full: Option<Sums>,
    /// What the output head makes of the state before each step.
    lens: Vec<Sums>,
    cosines: Vec<Cosines>,
    /// By the number of the change.
    changes: BTreeMap<usize, Sums>,
}

/// A finished scan.
#[derive(Clone, Debug)]
pub struct Done {
    /// The unchanged model.
    pub full: Sums,
    /// Each change.
    pub changes: Vec<(Change, Sums)>,
    /// Before each step: what the output head makes of the state there.
    pub lens: Vec<Sums>,
    /// Of each step.
    pub cosines: Vec<Cosines>,
    /// What was scanned.
    pub plan: Vec<LayerStep>,
}

/// A scan of a plan over windows.
pub struct Scan<'s> {
    sequence: &'s mut Sequence,
    windows: &'s [Window],
    plan: Vec<LayerStep>,
    changes: Vec<Change>,
}

impl<'s> Scan<'s> {
    /// Of what the sequence runs.
    pub fn new(sequence: &'s mut Sequence, windows: &'s [Window]) -> Scan<'s> {
        let plan = sequence.plan().to_vec();
        let changes = Change::all(&plan);
        Scan { sequence, windows, plan, changes }
    }

    /// Runs of part of the model that a scan takes.
    pub fn n_runs(&self) -> usize {
        self.windows.len() * (self.changes.len() + 1)
    }

    /// Runs that a state has already.
    pub fn n_done(&self, state: &ScanState) -> usize {
        state.windows.iter().map(|w| w.changes.len() + usize::from(w.full.is_some())).sum()
    }

    /// Refuses a state that no scan of this text and plan leaves: what was expected and found.
    pub fn check(&self, state: &ScanState) -> Result<(), String> {
        let (n_windows, n_changes, n_steps) = (self.windows.len(), self.changes.len(), self.plan.len());
        if state.windows.len() > n_windows {
            return Err(format!("state.windows: expected at most {n_windows}, found {}", state.windows.len()));
        }
        for (i, (own, window)) in state.windows.iter().zip(self.windows).enumerate() {
            let steps = if own.full.is_some() { n_steps } else { 0 };
            for (name, found) in [("lens", own.lens.len()), ("cosines", own.cosines.len())] {
                if found != steps {
                    return Err(format!("state.windows[{i}].{name}: expected {steps}, the steps, found {found}"));
                }
            }
            if let Some(no) = own.changes.keys().find(|no| **no >= n_changes) {
                return Err(format!("state.windows[{i}].changes: expected numbers below {n_changes}, found {no}"));
            }
            let sums = own.full.iter().chain(&own.lens).chain(own.changes.values());
            let counts = sums.map(|sums| sums.n).chain(own.cosines.iter().map(|cosines| cosines.n));
            let n = window.shown.len();
            if let Some(found) = counts.into_iter().find(|found| *found != n) {
                return Err(format!("state.windows[{i}]: expected sums over {n} places, found one over {found}"));
            }
        }
        Ok(())
    }

    /// Measures what the state lacks. `progress` hears of every run, and may stop it: then there is no result.
    pub fn run(
        &mut self,
        state: &mut ScanState,
        progress: &mut dyn FnMut(&ScanState) -> ControlFlow<()>,
    ) -> Result<Option<Done>, Error> {
        state.windows.resize(self.windows.len(), OfWindow::default());
        let result = self.run_windows(state, progress);
        self.sequence.replan(self.plan.clone())?;
        Ok(if result?.is_continue() { Some(self.done(state)) } else { None })
    }

    fn run_windows(
        &mut self,
        state: &mut ScanState,
        progress: &mut dyn FnMut(&ScanState) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        for i in 0..self.windows.len() {
            if state.windows[i].changes.len() < self.changes.len() && self.run_window(i, state, progress)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn run_window(
        &mut self,
        i: usize,
        state: &mut ScanState,
        progress: &mut dyn FnMut(&ScanState) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let window = &self.windows[i];
        let (mut states, mut out) = (Vec::new(), Shown::default());
        self.sequence.replan(halved(&self.plan))?;
        self.sequence.trace(&window.tokens, &window.shown, &mut out, &mut |now| states.push(now))?;
        let base = Base::new(&out.logits, &window.next);
        if state.windows[i].full.is_none() {
            let lens = self.lens(window, &states, &base)?;
            let of = &mut state.windows[i];
            (of.full, of.lens, of.cosines) = (Some(base.own()), lens, self.cosines(window, &states, &out.hidden));
            if progress(state).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for (no, change) in self.changes.iter().enumerate() {
            if state.windows[i].changes.contains_key(&no) {
                continue;
            }
            run_changed(self.sequence, window, &states, change.changed(&self.plan), &mut out)?;
            state.windows[i].changes.insert(no, base.compare(&out.logits));
            if progress(state).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The output head before every step.
    fn lens(&mut self, window: &Window, states: &[Vec<f32>], base: &Base) -> Result<Vec<Sums>, Error> {
        let mut sums = Vec::new();
        let mut halves = 0;
        for step in &self.plan {
            let shown: Vec<f32> = shown_rows(window, &states[halves]).concat();
            sums.push(base.compare(&self.sequence.logits_of_states(&shown)?));
            halves += n_halves(step);
        }
        Ok(sums)
    }

    /// Of every step. `last` are the states of the measured places behind the last one.
    fn cosines(&self, window: &Window, states: &[Vec<f32>], last: &[f32]) -> Vec<Cosines> {
        let mut halves = 0;
        let n_embd = last.len() / window.shown.len().max(1);
        let at = |halves: usize| match states.get(halves) {
            Some(states) => shown_rows(window, states),
            None => last.chunks_exact(n_embd).collect(),
        };
        let sum =
            |before: usize, behind: usize| at(before).iter().zip(&at(behind)).map(|(a, b)| cosine(a, b)).sum::<f64>();
        let of = |step: &LayerStep| {
            let (first, n) = (halves, n_halves(step));
            halves += n;
            let middle = first + usize::from(step.has(Half::Attention));
            Cosines {
                n: window.shown.len(),
                attention: step.has(Half::Attention).then(|| sum(first, middle)),
                feed_forward: step.has(Half::FeedForward).then(|| sum(middle, first + n)),
                layer: sum(first, first + n),
            }
        };
        self.plan.iter().map(of).collect()
    }

    fn done(&self, state: &ScanState) -> Done {
        let mut done = Done {
            full: Sums::default(),
            changes: self.changes.iter().map(|change| (*change, Sums::default())).collect(),
            lens: vec![Sums::default(); self.plan.len()],
            cosines: vec![Cosines::default(); self.plan.len()],
            plan: self.plan.clone(),
        };
        for (i, window) in state.windows.iter().enumerate() {
            done.full += window.full.unwrap_or_default();
            for (no, sums) in &window.changes {
                done.changes.get_mut(*no).into_iter().for_each(|(_, all)| *all += *sums);
            }
            done.lens.iter_mut().zip(&window.lens).for_each(|(all, one)| *all += *one);
            for (all, one) in done.cosines.iter_mut().zip(&window.cosines) {
                if i == 0 { *all = *one } else { all.add(one) }
            }
        }
        done
    }
}

impl Done {
    /// What a change did, where it was possible.
    pub fn of(&self, change: Change) -> Option<&Sums> {
        self.changes.iter().find(|(own, _)| *own == change).map(|(_, sums)| sums)
    }
}

impl From<Part> for Change {
    fn from(part: Part) -> Change {
        match part.half {
            None => Change::Delete(part.place),
            Some(Half::Attention) => Change::DropAttention(part.place),
            Some(Half::FeedForward) => Change::DropFeedForward(part.place),
        }
    }
}

/// The states of the places that are measured.
fn shown_rows<'a>(window: &Window, states: &'a [f32]) -> Vec<&'a [f32]> {
    let n_embd = states.len() / window.tokens.len();
    window.shown.iter().map(|&i| &states[i * n_embd..(i + 1) * n_embd]).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}
