//! Owns what a rule would have done to the training rows: which checkpoints and which scores are enough for a wanted rate, and
//! what that costs. Everything is decided on scores for rows that the scoring fit has not seen.

use rayon::prelude::*;

use super::rules::{Looks, RuleKind};
use super::{FOLDS, Options, Row, Tried};
use crate::exit::{Decision, Reading, Scorer, Target};
use crate::plan::Depth;

/// Rates at which readings shall be right where they stop: what thresholds are chosen for, from the boldest on.
const RATES: [f64; 26] = {
    let mut rates = [0.0; 26];
    let mut i = 0;
    while i < 26 {
        rates[i] = 0.75 + 0.01 * i as f64;
        i += 1;
    }
    rates
};

/// A rule that was tried.
pub(super) struct Trial {
    /// By checkpoint and row, of fits without the row's fold.
    pub(super) scores: Vec<Vec<f32>>,
    /// Fitted to all rows, one for each checkpoint.
    pub(super) scorers: Vec<Scorer>,
    pub(super) tried: Tried,
}

/// Candidate checkpoints with their readings.
pub(super) struct Places {
    readings: Vec<Vec<Reading>>,
    depths: Vec<Depth>,
}

impl Places {
    pub(super) fn of(readings: &[Vec<Reading>], depths: &[Depth], chosen: &[usize]) -> Places {
        Places {
            readings: chosen.iter().map(|&i| readings[i].clone()).collect(),
            depths: chosen.iter().map(|&i| depths[i]).collect(),
        }
    }

    fn without(&self, i: usize) -> Places {
        let mut places = Places { readings: self.readings.clone(), depths: self.depths.clone() };
        places.readings.remove(i);
        places.depths.remove(i);
        places
    }

    fn tops(&self) -> Vec<Vec<f32>> {
        self.readings.iter().map(|of_layer| of_layer.iter().map(|r| r.top).collect()).collect()
    }
}

/// What happens to rows.
pub(super) struct Walked {
    right: usize,
    true_: usize,
    steps: usize,
    looks: usize,
    early: usize,
    /// By checkpoint.
    pub(super) stops: Vec<usize>,
}

/// The training rows of a policy.
pub(super) struct Case<'a> {
    pub(super) rows: &'a [Row],
    pub(super) targets: &'a [usize],
    pub(super) folds: &'a [usize],
    /// The depth that is full.
    pub(super) full: Depth,
    pub(super) options: &'a Options,
}

impl Case<'_> {
    /// Leaves out, one by one, the checkpoint whose looks cost more than it saves.
    pub(super) fn choose_checkpoints(&self, places: &Places) -> Vec<usize> {
        let everybody: Vec<usize> = (0..self.rows.len()).collect();
        let cost_of = |places: &Places, rate: f64| {
            let scores = places.tops();
            let thresholds = self.thresholds_at(places, &scores, &everybody, rate);
            let walked = self.decide(places, &scores, &thresholds, &everybody);
            walked.steps as f64 + self.options.look_cost * walked.looks as f64
        };
        let scores = places.tops();
        // By the top alone: rules are fitted to the candidates that are kept.
        let rate = self.best_rate(places, &scores, &everybody);
        let mut chosen: Vec<usize> = (0..places.depths.len()).collect();
        let mut now = Places { readings: places.readings.clone(), depths: places.depths.clone() };
        let mut cost = cost_of(&now, rate);
        // One by one: what a look is worth depends on the others that are left.
        while chosen.len() > 1 {
            // Fitted to the truth, the last candidate knows more than full depth: it stays.
            let last = if self.options.target == Target::Truth { chosen.len() - 1 } else { chosen.len() };
            let without = (0..last).into_par_iter().map(|i| (cost_of(&now.without(i), rate), i));
            match without.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))) {
                Some((less, i)) if less <= cost => {
                    (cost, now) = (less, now.without(i));
                    chosen.remove(i);
                }
                _ => break,
            }
        }
        chosen
    }

    /// The scores that are enough, chosen on all rows, and what they do to them.
    pub(super) fn decide_all(&self, places: &Places, scores: &[Vec<f32>]) -> (Walked, Vec<f32>) {
        let everybody: Vec<usize> = (0..self.rows.len()).collect();
        let thresholds = self.thresholds(places, scores, &everybody);
        (self.decide(places, scores, &thresholds, &everybody), thresholds)
    }

    fn fit_rule(&self, places: &Places, kind: RuleKind, shared: bool, rows: &[usize]) -> Result<Vec<Scorer>, String> {
        let is_right =
            |of_layer: &Vec<Reading>| of_layer.iter().zip(self.targets).map(|(r, t)| r.label == *t).collect();
        let right: Vec<Vec<bool>> = places.readings.iter().map(is_right).collect();
        // Between 0 and 1, as top and gap are: one kernel width serves all three.
        let depths: Vec<f32> = places.depths.iter().map(|depth| depth.0 as f32 / self.full.0 as f32).collect();
        let looks = Looks { readings: &places.readings, right: &right, depths: &depths };
        kind.fit(&looks, rows, shared, self.options.seed)
    }

    /// Scores by checkpoint and row, of a rule fitted without the row's fold; and what it does to rows whose fold its
    /// thresholds have not seen either.
    pub(super) fn try_rule(&self, places: &Places, kind: RuleKind, shared: bool) -> Result<Trial, String> {
        let mut scores = vec![vec![0.0; self.rows.len()]; places.depths.len()];
        let in_fold = |fold: usize| (0..self.rows.len()).filter(move |&r| self.folds[r] == fold);
        let others = |fold: usize| (0..self.rows.len()).filter(|&r| self.folds[r] != fold).collect::<Vec<_>>();
        let fitted: Vec<Vec<Scorer>> = (0..FOLDS)
            .into_par_iter()
            .map(|fold| self.fit_rule(places, kind, shared, &others(fold)))
            .collect::<Result<_, String>>()?;
        // A chain's belief goes from look to look, so the looks of one row follow each other.
        for row in 0..self.rows.len() {
            let mut decision = Decision::default();
            for (i, scorer) in fitted[self.folds[row]].iter().enumerate() {
                scores[i][row] = decision.score(scorer, &places.readings[i][row]);
            }
        }
        // Thresholds too are chosen without the fold that they are judged on.
        let decisions: Vec<Walked> = (0..FOLDS)
            .into_par_iter()
            .map(|fold| {
                let thresholds = self.thresholds(places, &scores, &others(fold));
                self.decide(places, &scores, &thresholds, &in_fold(fold).collect::<Vec<_>>())
            })
            .collect();
        let mean = |of: fn(&Walked) -> usize| decisions.iter().map(of).sum::<usize>() as f64 / self.rows.len() as f64;
        let mean_steps = mean(|w| w.steps);
        let tried = Tried {
            kind,
            shared,
            right: mean(|w| w.right),
            accuracy: mean(|w| w.true_),
            coverage: mean(|w| w.early),
            mean_steps,
            mean_cost: mean_steps + self.options.look_cost * mean(|w| w.looks),
        };
        let everybody: Vec<usize> = (0..self.rows.len()).collect();
        Ok(Trial { scores, scorers: self.fit_rule(places, kind, shared, &everybody)?, tried })
    }

    /// The scores that are enough, chosen on `rows`.
    fn thresholds(&self, places: &Places, scores: &[Vec<f32>], rows: &[usize]) -> Vec<f32> {
        if self.options.plain {
            // The paper's classifier decides by its sign.
            return vec![0.0; places.depths.len()];
        }
        self.thresholds_at(places, scores, rows, self.best_rate(places, scores, rows))
    }

    /// The rate at which readings must be right where they stop, so that the wanted share of rows gets the target's answer
    /// at the least cost.
    fn best_rate(&self, places: &Places, scores: &[Vec<f32>], rows: &[usize]) -> f64 {
        let decisions: Vec<Walked> = RATES
            .iter()
            .map(|&rate| self.decide(places, scores, &self.thresholds_at(places, scores, rows, rate), rows))
            .collect();
        let right = |w: &Walked| w.right as f64 / rows.len() as f64;
        let wanted = match self.options.target {
            Target::Model => self.options.agreement,
            Target::Truth => decisions.iter().map(right).fold(0.0, f64::max) - self.options.loss,
        };
        let cost = |w: &Walked| w.steps as f64 + self.options.look_cost * w.looks as f64;
        // Of the rates that reach what is wanted the cheapest, which need not be the boldest: looks cost too.
        let enough = decisions.iter().zip(RATES).filter(|(w, _)| right(w) >= wanted);
        enough.min_by(|a, b| cost(a.0).total_cmp(&cost(b.0))).map_or(1.0, |(_, rate)| rate)
    }

    /// For every checkpoint the lowest score from which on its readings of the rows still there are right at this rate.
    fn thresholds_at(&self, places: &Places, scores: &[Vec<f32>], rows: &[usize], rate: f64) -> Vec<f32> {
        /// Fewer rows than this say nothing about a rate.
        const LEAST: usize = 10;
        // Only rows that no earlier checkpoint has stopped come to a later one.
        let mut remaining = rows.to_vec();
        let mut thresholds = Vec::new();
        for (of_layer, scores) in places.readings.iter().zip(scores) {
            remaining.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let (mut right, mut n_stop) = (0, 0);
            for (i, &row) in remaining.iter().enumerate() {
                right += usize::from(of_layer[row].label == self.targets[row]);
                // The lowest such score, not the first: where the rate is reached again further down, more rows stop.
                if i + 1 >= LEAST && right as f64 >= rate * (i + 1) as f64 {
                    n_stop = i + 1;
                }
            }
            // Between the last row that stops and the first that goes on.
            let last = n_stop.checked_sub(1).map(|i| scores[remaining[i]]);
            let next = remaining.get(n_stop).map(|&row| scores[row]);
            let threshold = match (last, next) {
                (None, _) => f32::INFINITY,
                (Some(last), Some(next)) => (last + next) / 2.0,
                (Some(_), None) => f32::NEG_INFINITY,
            };
            thresholds.push(threshold);
            // As the decision does: a score that is equal stops.
            remaining.retain(|&row| scores[row] < threshold);
        }
        // Fitted to the truth, the last read-out knows more than full depth: whoever is left stops there.
        if self.options.target == Target::Truth
            && self.options.input.is_fitted()
            && let Some(last) = thresholds.last_mut()
        {
            *last = f32::NEG_INFINITY;
        }
        thresholds
    }

    fn decide(&self, places: &Places, scores: &[Vec<f32>], thresholds: &[f32], rows: &[usize]) -> Walked {
        let n = places.depths.len();
        let mut walked = Walked { right: 0, true_: 0, steps: 0, looks: 0, early: 0, stops: vec![0; n] };
        for &row in rows {
            let (target, truth) = (self.targets[row], self.rows[row].truth);
            let (answer, depth) = match (0..n).find(|&i| scores[i][row] >= thresholds[i]) {
                Some(i) => {
                    walked.stops[i] += 1;
                    walked.early += 1;
                    walked.looks += i + 1;
                    (places.readings[i][row].label, places.depths[i])
                }
                None => {
                    walked.looks += n;
                    (self.rows[row].full, self.full)
                }
            };
            walked.steps += depth.0;
            walked.right += usize::from(answer == target);
            walked.true_ += usize::from(answer == truth);
        }
        walked
    }
}
