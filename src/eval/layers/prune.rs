//! Owns the search for what can be left out for good: part by part, chosen on some windows of a text and checked on others.

use std::ops::ControlFlow;

use super::compare::{Base, Sums};
use super::scan::{Change, halved, run_changed};
use super::{Costs, Window};
use crate::engine::{Sequence, Shown};
use crate::eval::Error;
use crate::model::LayerStep;
use crate::plan::{Depth, Half, number};

/// A step of the unpruned plan, or a half of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which step.
    pub place: usize,
    /// Which half; both for none.
    pub half: Option<Half>,
}

/// How the next part is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The last one first (Tyukin, arXiv 2404.05741).
    Latter,
    /// By what each does alone to the predictions, for the time that it takes.
    Measured,
    /// By what each does after all that is left out already, for the time that it takes; so many are tried for each that goes.
    Greedy(usize),
}

/// When the search ends; where nothing is said, when nothing is left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// The perplexity may rise by this share.
    pub loss: Option<f64>,
    /// A token shall be this many times as fast.
    pub speed: Option<f64>,
    /// So many parts may go.
    pub skip: Option<usize>,
}

/// What is left after some parts went.
#[derive(Clone, Debug)]
pub struct Point {
    /// What went last; nothing for the unpruned plan.
    pub part: Option<Part>,
    /// What runs.
    pub plan: Vec<LayerStep>,
    /// On the windows that decide.
    pub chosen_on: Sums,
    /// On the others.
    pub checked_on: Sums,
    /// How many times as fast a token is expected to be.
    pub speed: f64,
}

/// The parts of a plan of some kinds, from first to last: halves, and whole steps where that is another thing.
pub fn parts_of(plan: &[LayerStep], halves: &[Half], whole: bool) -> Vec<Part> {
    let of = |place: usize| {
        let halves = halves.iter().filter(move |&&half| plan[place].has(half));
        let halves = halves.map(move |&half| Part { place, half: Some(half) });
        halves.chain(whole.then_some(Part { place, half: None }))
    };
    (0..plan.len()).flat_map(of).collect()
}

/// A search on a plan.
pub struct Search<'s> {
    sequence: &'s mut Sequence,
    windows: [&'s [Window]; 2],
    bases: [Vec<Base>; 2],
    unpruned: Vec<LayerStep>,
    /// What is left of each step.
    left: Vec<Option<LayerStep>>,
    costs: Costs,
}

impl<'s> Search<'s> {
    /// On what the sequence runs. `windows`: those that decide, those that check.
    pub fn new(sequence: &'s mut Sequence, windows: [&'s [Window]; 2], costs: Costs) -> Result<Search<'s>, Error> {
        let mut out = Shown::default();
        let mut bases = [Vec::new(), Vec::new()];
        for (windows, bases) in windows.iter().zip(&mut bases) {
            for window in *windows {
                sequence.resume(&window.tokens, Depth(0), &[], &window.shown, &mut out)?;
                bases.push(Base::new(&out.logits, &window.next));
            }
        }
        let unpruned = sequence.plan().to_vec();
        Ok(Search { sequence, windows, bases, left: unpruned.iter().copied().map(Some).collect(), unpruned, costs })
    }

    /// Takes part after part out; gives every plan on the way, the unpruned one first, the last one perhaps beyond the limit of
    /// loss. `progress` hears how many parts have gone and how many runs were made for the next; it may end the search.
    pub fn run(
        &mut self,
        parts: Vec<Part>,
        method: Method,
        limits: Limits,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Point>, Error> {
        let own = |bases: &[Base]| bases.iter().map(Base::own).fold(Sums::default(), added);
        let [chosen_on, checked_on] = [own(&self.bases[0]), own(&self.bases[1])];
        let mut points = vec![Point { part: None, plan: self.unpruned.clone(), chosen_on, checked_on, speed: 1.0 }];
        let mut ranked: Vec<(f64, Part)> = parts.into_iter().map(|part| (0.0, part)).collect();
        if method == Method::Latter {
            ranked.reverse();
        } else if self.rank(&mut ranked, usize::MAX, 0, progress)?.is_break() {
            return Ok(points);
        }
        while !limits.reached(&points) && !ranked.is_empty() {
            let tries = if let Method::Greedy(tries) = method { tries } else { 1 };
            // What was just ranked alone need not be tried again.
            if points.len() > 1 && self.rank(&mut ranked, tries, points.len() - 1, progress)?.is_break() {
                break;
            }
            let (_, part) = ranked.remove(0);
            let before = self.left[part.place];
            self.left[part.place] = without(before, part);
            let plan = self.plan();
            if plan.is_empty() {
                break;
            }
            ranked.retain(|(_, other)| without(self.left[other.place], *other) != self.left[other.place]);
            let [chosen_on, checked_on] = [self.measure(0)?, self.measure(1)?];
            let speed = self.costs.of(&self.unpruned) / self.costs.of(&plan).max(f64::MIN_POSITIVE);
            points.push(Point { part: Some(part), plan, chosen_on, checked_on, speed });
            if progress(points.len() - 1, 0).is_break() {
                break;
            }
        }
        self.sequence.replan(self.unpruned.clone())?;
        Ok(points)
    }

    fn plan(&self) -> Vec<LayerStep> {
        let mut plan: Vec<LayerStep> = self.left.iter().copied().flatten().collect();
        number(&mut plan);
        plan
    }

    /// Tries the first `n` parts after all that is gone, and sorts them by the divergence that each adds for the time that it
    /// saves. Breaks off where it was ended.
    fn rank(
        &mut self,
        ranked: &mut [(f64, Part)],
        n: usize,
        n_gone: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let n = n.min(ranked.len());
        if n == 1 {
            return Ok(ControlFlow::Continue(()));
        }
        let (plan, mut out) = (self.plan(), Shown::default());
        let mut sums = vec![Sums::default(); n];
        let mut before = Sums::default();
        let mut runs = 0;
        for (window, base) in self.windows[0].iter().zip(&self.bases[0]) {
            let mut states = Vec::new();
            self.sequence.replan(halved(&plan))?;
            self.sequence.trace(&window.tokens, &window.shown, &mut out, &mut |now| states.push(now))?;
            before += base.compare(&out.logits);
            for ((_, part), sums) in ranked.iter().zip(&mut sums) {
                let changed = self.change(*part).changed(&plan);
                if changed.plan.is_empty() {
                    sums.kld = f64::INFINITY;
                    continue;
                }
                run_changed(self.sequence, window, &states, changed, &mut out)?;
                *sums += base.compare(&out.logits);
                runs += 1;
                if progress(n_gone, runs).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        for ((score, part), sums) in ranked.iter_mut().zip(sums) {
            let rest = without(self.left[part.place], *part);
            let saved = self.costs.of(self.left[part.place].as_slice()) - self.costs.of(rest.as_slice());
            *score = (sums.mean_kld() - before.mean_kld()) / saved.max(1e-9);
        }
        ranked[..n].sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(ControlFlow::Continue(()))
    }

    /// A part as a change of what is left.
    fn change(&self, part: Part) -> Change {
        let place = self.left[..part.place].iter().flatten().count();
        let rest = without(self.left[part.place], part);
        let half = rest.and(part.half);
        Change::from(Part { place, half })
    }

    /// What is left beside the unpruned plan, on some windows.
    fn measure(&mut self, which: usize) -> Result<Sums, Error> {
        let (mut out, mut sums) = (Shown::default(), Sums::default());
        self.sequence.replan(self.plan())?;
        for (window, base) in self.windows[which].iter().zip(&self.bases[which]) {
            self.sequence.resume(&window.tokens, Depth(0), &[], &window.shown, &mut out)?;
            sums += base.compare(&out.logits);
        }
        Ok(sums)
    }
}

fn added(mut all: Sums, one: Sums) -> Sums {
    all += one;
    all
}

fn without(step: Option<LayerStep>, part: Part) -> Option<LayerStep> {
    step?.without(part.half?)
}

impl Limits {
    /// The rise of the perplexity that ends the search, where nothing else does.
    const LOSS: f64 = 0.05;

    /// These limits, or where there are none, one of loss.
    pub fn or_default(self) -> Limits {
        if self == Limits::default() { Limits { loss: Some(Limits::LOSS), ..self } } else { self }
    }

    fn reached(&self, points: &[Point]) -> bool {
        let last = points.last().expect("the unpruned plan is a point");
        !self.allow(&points[0], last)
            || self.speed.is_some_and(|speed| last.speed >= speed)
            || self.skip.is_some_and(|n| points.len() > n)
    }

    /// Whether a plan loses no more than it may, on the windows that decide.
    pub fn allow(&self, unpruned: &Point, point: &Point) -> bool {
        self.loss.is_none_or(|loss| point.chosen_on.rise(&unpruned.chosen_on) <= loss)
    }

    /// The last plan on the way that is allowed.
    pub fn chosen<'p>(&self, points: &'p [Point]) -> &'p Point {
        points.iter().rev().find(|point| self.allow(&points[0], point)).unwrap_or(&points[0])
    }
}

impl Sums {
    /// By what share the perplexity is above another's.
    pub fn rise(&self, unpruned: &Sums) -> f64 {
        (self.mean_loss() - unpruned.mean_loss()).exp() - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::full;

    #[test]
    fn parts_are_halves_and_whole_steps() {
        let mut plan = full(2);
        plan[1] = plan[1].without(Half::Attention).unwrap();
        let part = |place, half| Part { place, half };
        assert_eq!(parts_of(&plan, &[Half::Attention], false), [part(0, Some(Half::Attention))]);
        assert_eq!(parts_of(&plan, &[], true), [part(0, None), part(1, None)]);
        assert_eq!(parts_of(&plan, &[Half::Attention, Half::FeedForward], true).len(), 5);
    }

    #[test]
    fn limits_choose_the_last_plan_that_they_allow() {
        let point = |loss: f64, speed| {
            let sums = Sums { n: 1, loss, ..Sums::default() };
            Point { part: None, plan: full(1), chosen_on: sums, checked_on: sums, speed }
        };
        let points = [point(1.0, 1.0), point(1.02, 1.1), point(1.2, 1.2)];
        let limits = Limits::default().or_default();
        assert!(limits.reached(&points) && !limits.reached(&points[..2]));
        assert_eq!(limits.chosen(&points).speed, 1.1);
        let by_speed = Limits { speed: Some(1.05), ..Limits::default() };
        assert!(by_speed.reached(&points[..2]) && by_speed.or_default() == by_speed);
        let by_number = Limits { skip: Some(2), ..Limits::default() };
        assert!(by_number.reached(&points) && !by_number.reached(&points[..2]));
    }
}
