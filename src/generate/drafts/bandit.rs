//! Owns the choice of what pays: what evaluations cost and what drafts come to, as measured on the way.

use std::collections::VecDeque;

use super::prompt_lookup::LONGEST;
use crate::generate::median;

/// What an evaluation tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::generate) enum Arm {
    /// One token at full depth.
    Plain,
    /// Tokens that followed before.
    Lookup {
        /// How many of the last tokens stood there too.
        matched: usize,
        /// How many were drafted.
        drafted: usize,
    },
    /// What some layers made of the last tokens.
    Running,
}

/// Drafts by lookup that are ever made at once.
const MOST: usize = 16;

/// What trying has cost may be this share of the time of all tokens so far, and of the first [`HEAD_START`].
const BUDGET: f64 = 0.01;
const HEAD_START: f64 = 48.0;

/// What drafts by running are expected to lose at most, in tokens' time: looks that are not sure end them early.
const RUNNING_RISK: f64 = 1.0;

/// An arm must be this much faster than full depth, by its estimate, to be taken beyond the budget.
const MARGIN: f64 = 1.03;

/// The weight of a new measurement.
const NEWS: f64 = 0.1;

/// Tokens after which an arm that did not pay is tried again.
const AGAIN: usize = 512;

/// Lone tokens whose median is what a token costs: the first ones are slow, and the machine has other work.
const SAMPLES: usize = 9;

/// After so many evaluations with drafts comes one without, to know what those are compared with.
const COMPARE: usize = 16;

pub(super) struct Bandit {
    /// Seconds of the last tokens alone.
    plain: VecDeque<f64>,
    /// Evaluations with drafts since the last without.
    since_plain: usize,
    /// Seconds of an evaluation with so many drafts, over one without.
    cost: [f64; MOST + 1],
    /// By how many tokens matched: drafts verified, and how many of them were right.
    lookups: [(f64, f64); LONGEST + 1],
    /// Seconds per token with drafts by running, over full depth's.
    running: Option<f64>,
    since_running: usize,
    /// Seconds that drafting has saved so far; negative where it has cost.
    saved: f64,
    tokens: usize,
}

impl Default for Bandit {
    /// A row that rides along is expected to cost a fifth of a lone one, and a draft to be right every other time.
    fn default() -> Bandit {
        Bandit {
            plain: VecDeque::new(),
            since_plain: 0,
            cost: std::array::from_fn(|n| 1.0 + n as f64 / 5.0),
            lookups: [(2.0, 1.0); LONGEST + 1],
            running: None,
            since_running: 0,
            saved: 0.0,
            tokens: 0,
        }
    }
}

impl Bandit {
    /// How many of `available` tokens found by lookup are worth drafting; 0 for none.
    pub(super) fn choose_lookup(&self, matched: usize, available: usize) -> usize {
        let Some((tries, right)) = self.lookups.get(matched).filter(|_| available > 0 && self.is_ready()) else {
            return 0;
        };
        // Each draft needs all before it to be right: so the gain of the next one shrinks by this.
        let p = right / tries;
        let gain = |n: usize| (0..=n).map(|i| p.powi(i as i32)).sum::<f64>() / self.cost[n];
        let affordable = (1..=available.min(MOST)).filter(|&n| self.affords(self.cost[n] - 1.0));
        let best = affordable.max_by(|&a, &b| gain(a).total_cmp(&gain(b))).unwrap_or(0);
        // Within the margin it is noise: a token alone is what it is compared with.
        if gain(best) > MARGIN { best } else { 0 }
    }

    /// Whether to draft by running.
    pub(super) fn tries_running(&self) -> bool {
        let pays = self.running.is_none_or(|ratio| ratio * MARGIN < 1.0 || self.since_running > AGAIN);
        pays && self.is_ready() && self.affords(RUNNING_RISK)
    }

    /// Whether it is known what a token alone costs.
    fn is_ready(&self) -> bool {
        self.plain.len() >= SAMPLES / 2 && self.since_plain < COMPARE
    }

    fn of_plain(&self) -> f64 {
        // The median, since the machine has other work: a mean would take its pauses for costs.
        median(self.plain.iter().copied()).unwrap_or(0.0)
    }

    /// Whether drafts may turn out to have cost so many tokens' time for nothing.
    fn affords(&self, lost: f64) -> bool {
        self.saved >= self.of_plain() * (lost - BUDGET * (self.tokens as f64 + HEAD_START))
    }

    /// Takes note of an evaluation: tokens that it gave, seconds that it took, drafting included.
    pub(super) fn record(&mut self, arm: Arm, tokens: usize, seconds: f64) {
        self.tokens += tokens;
        self.since_running += tokens;
        if arm == Arm::Plain {
            self.since_plain = 0;
            self.plain.push_back(seconds / tokens.max(1) as f64);
            if self.plain.len() > SAMPLES {
                self.plain.pop_front();
            }
            return;
        }
        let plain = self.of_plain();
        // A machine slows down and gets faster: what a token alone costs has to be measured now and then.
        self.since_plain += 1;
        self.saved += plain * tokens as f64 - seconds;
        match arm {
            Arm::Plain => {}
            Arm::Lookup { matched, drafted } => {
                self.cost[drafted] += NEWS * (seconds / plain - self.cost[drafted]);
                // One of the tokens is full depth's own, behind the last right draft.
                let right = tokens.saturating_sub(1).min(drafted);
                let (tries, hits) = &mut self.lookups[matched];
                // Drafts behind a wrong one say nothing.
                *tries = 0.98 * *tries + (right + usize::from(right < drafted)) as f64;
                *hits = 0.98 * *hits + right as f64;
            }
            Arm::Running => {
                let ratio = seconds / plain / tokens.max(1) as f64;
                let before = self.running.unwrap_or(ratio);
                self.running = Some(before + 2.0 * NEWS * (ratio - before));
                self.since_running = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bandit() -> Bandit {
        let mut bandit = Bandit::default();
        (0..SAMPLES).for_each(|_| bandit.record(Arm::Plain, 1, 1.0));
        bandit
    }

    #[test]
    fn drafts_that_come_true_are_made_longer_and_others_no_more() {
        let mut good = bandit();
        let mut lengths = Vec::new();
        for _ in 0..40 {
            let n = good.choose_lookup(3, 16);
            if n == 0 {
                good.record(Arm::Plain, 1, 1.0);
                continue;
            }
            lengths.push(n);
            good.record(Arm::Lookup { matched: 3, drafted: n }, n + 1, 1.0 + n as f64 * 0.3);
        }
        assert!(lengths.len() > 35 && lengths[35] >= 8 && lengths[35] > lengths[0], "{lengths:?}");
        let mut bad = bandit();
        let mut tried = 0;
        for _ in 0..400 {
            match bad.choose_lookup(3, 16) {
                0 => bad.record(Arm::Plain, 1, 1.0),
                n => {
                    tried += 1;
                    bad.record(Arm::Lookup { matched: 3, drafted: n }, 1, 1.0 + n as f64 * 0.3);
                }
            }
        }
        assert!((1..8).contains(&tried) && bad.saved > -0.02 * 400.0, "{tried} {}", bad.saved);
    }

    #[test]
    fn running_that_does_not_pay_are_seldom_tried() {
        let mut bandit = bandit();
        let mut tried = 0;
        for _ in 0..1000 {
            if bandit.tries_running() {
                tried += 1;
                bandit.record(Arm::Running, 1, 1.4);
            } else {
                bandit.record(Arm::Plain, 1, 1.0);
            }
        }
        assert!((1..=3).contains(&tried), "{tried}");
    }
}
