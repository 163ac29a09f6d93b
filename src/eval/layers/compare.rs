//! Compares predictions with those of the unchanged model, over whole vocabularies: all cores, a few operations a logit.

use std::ops::AddAssign;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::engine::TokenId;

/// What the unchanged model predicts at some places.
pub struct Base {
    n_vocab: usize,
    /// Probabilities, \[n_vocab\] for each place.
    probs: Vec<f32>,
    /// Of each place: the negative entropy, the best token, the token that follows.
    places: Vec<(f64, usize, TokenId)>,
}

/// Sums over places, of predictions beside the unchanged model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Places.
    pub n: usize,
    /// Kullback-Leibler divergence from the unchanged model, in nats.
    pub kld: f64,
    /// Of its squares, for the error of the mean.
    pub kld_squares: f64,
    /// Places with the same best token.
    pub same_top: usize,
    /// Entropy of the predictions, in nats.
    pub entropy: f64,
    /// Negative log-likelihood of the text, in nats.
    pub loss: f64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.n += other.n;
        self.kld += other.kld;
        self.kld_squares += other.kld_squares;
        self.same_top += other.same_top;
        self.entropy += other.entropy;
        self.loss += other.loss;
    }
}

impl Sums {
    /// Mean divergence.
    pub fn mean_kld(&self) -> f64 {
        self.kld / self.n.max(1) as f64
    }

    /// Standard error of the mean divergence.
    pub fn kld_error(&self) -> f64 {
        let n = self.n.max(2) as f64;
        ((self.kld_squares / n - self.mean_kld().powi(2)).max(0.0) / (n - 1.0)).sqrt()
    }

    /// Share of places with the same best token.
    pub fn agreement(&self) -> f64 {
        self.same_top as f64 / self.n.max(1) as f64
    }

    /// Mean entropy.
    pub fn mean_entropy(&self) -> f64 {
        self.entropy / self.n.max(1) as f64
    }

    /// Mean negative log-likelihood.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.n.max(1) as f64
    }
}

impl Base {
    /// Of logits \[n_vocab\] a place, where `next` follows in the text.
    pub fn new(logits: &[f32], next: &[TokenId]) -> Base {
        let n_vocab = logits.len() / next.len().max(1);
        let mut probs = vec![0.0; logits.len()];
        let rows = logits.par_chunks_exact(n_vocab.max(1)).zip(probs.par_chunks_exact_mut(n_vocab.max(1)));
        let places = rows.map(|(logits, probs)| {
            let (best, max) = best(logits);
            let Softmax { sum, own, .. } = softmax(logits, max, logits);
            let scale = 1.0 / sum as f32;
            logits.iter().zip(probs).for_each(|(l, p)| *p = exp(l - max) * scale);
            (own / sum - sum.ln(), best)
        });
        let places: Vec<(f64, usize)> = places.collect();
        let places = places.into_iter().zip(next).map(|((entropy, best), &next)| (entropy, best, next)).collect();
        Base { n_vocab, probs, places }
    }

    /// What other logits at the same places differ in.
    pub fn compare(&self, logits: &[f32]) -> Sums {
        assert_eq!(logits.len(), self.probs.len(), "as many logits as the unchanged model has");
        let rows = logits.par_chunks_exact(self.n_vocab.max(1)).zip(self.probs.par_chunks_exact(self.n_vocab.max(1)));
        let sums = rows.zip(&self.places).map(|((logits, probs), &(negentropy, best_base, next))| {
            let (best, max) = best(logits);
            let Softmax { sum, own, cross } = softmax(logits, max, probs);
            let log_sum = sum.ln();
            // Rounding may leave a little less than nothing.
            let kld = (negentropy - cross + log_sum).max(0.0);
            Sums {
                n: 1,
                kld,
                kld_squares: kld * kld,
                same_top: usize::from(best == best_base),
                entropy: log_sum - own / sum,
                loss: log_sum - f64::from(logits[next as usize] - max),
            }
        });
        // In the order of the places, whatever the number of threads.
        sums.collect::<Vec<_>>().into_iter().fold(Sums::default(), |mut all, one| {
            all += one;
            all
        })
    }

    /// The unchanged model beside itself.
    pub fn own(&self) -> Sums {
        let mut all = Sums::default();
        for (probs, (negentropy, _, next)) in self.probs.chunks_exact(self.n_vocab.max(1)).zip(&self.places) {
            let loss = -f64::from(probs[*next as usize].max(f32::MIN_POSITIVE)).ln();
            all += Sums { n: 1, same_top: 1, entropy: -negentropy, loss, ..Sums::default() };
        }
        all
    }
}

/// The first of the largest, and its value.
fn best(logits: &[f32]) -> (usize, f32) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    chunks.for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(m, x)| *m = if *x > *m { *x } else { *m }));
    let max = lanes.into_iter().fold(rest, f32::max);
    (logits.iter().position(|&x| x == max).unwrap_or(0), max)
}

/// Sums over a vocabulary, with x a logit less the largest.
struct Softmax {
    /// Of exp(x).
    sum: f64,
    /// Of exp(x) x.
    own: f64,
    /// Of w x.
    cross: f64,
}

const LANES: usize = 16;

/// Single-precision sums of this many are added up in double precision: what is lost is a millionth.
const BLOCK: usize = 16 * LANES;

fn softmax(logits: &[f32], max: f32, weights: &[f32]) -> Softmax {
    let mut all = Softmax { sum: 0.0, own: 0.0, cross: 0.0 };
    for (logits, weights) in logits.chunks(BLOCK).zip(weights.chunks(BLOCK)) {
        let mut lanes = [[0f32; LANES]; 3];
        for (logits, weights) in logits.chunks(LANES).zip(weights.chunks(LANES)) {
            for (i, (l, w)) in logits.iter().zip(weights).enumerate() {
                let x = l - max;
                let e = exp(x);
                lanes[0][i] += e;
                lanes[1][i] += e * x;
                lanes[2][i] += w * x;
            }
        }
        let [sum, own, cross] = lanes.map(|lane| lane.iter().map(|x| f64::from(*x)).sum::<f64>());
        all = Softmax { sum: all.sum + sum, own: all.own + own, cross: all.cross + cross };
    }
    all
}

/// exp(x) for x up to 0, to a few units in the last place, without a branch: 2^n times the series of the rest.
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: what is added to it becomes a whole number
    let x = if x > -87.0 { x } else { -87.0 };
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, so that the difference keeps its digits.
    let r = (x - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = (series * r + 1.0) * r + 1.0;
    f32::from_bits(((n as i32 + 127) << 23) as u32) * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_the_library_s() {
        for i in 0..200_000 {
            let x = -0.000_5 * i as f32;
            let (found, expected) = (exp(x), f64::from(x.max(-87.0)).exp());
            assert!((f64::from(found) / expected - 1.0).abs() < 4e-7, "{x}: {found} {expected}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    fn noise(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 1_000_000.0 - 8.0
        };
        (0..n).map(next).collect()
    }

    #[test]
    fn sums_are_those_of_the_definitions() {
        // No multiple of the lanes or the blocks.
        const N: usize = 1013;
        let (base, other) = (noise(1, 3 * N), noise(2, 3 * N));
        let next = [7, 1012, 300];
        let found = Base::new(&base, &next).compare(&other);
        let log_probs = |logits: &[f32]| {
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            logits.iter().map(|&x| f64::from(x) - sum.ln()).collect::<Vec<f64>>()
        };
        let (mut kld, mut entropy, mut loss, mut same) = (0.0, 0.0, 0.0, 0);
        let top = |p: &[f64]| (0..N).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap();
        for ((base, other), &next) in base.chunks(N).zip(other.chunks(N)).zip(&next) {
            let (p, q) = (log_probs(base), log_probs(other));
            kld += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            entropy -= q.iter().map(|q| q.exp() * q).sum::<f64>();
            loss -= q[next as usize];
            same += usize::from(top(&p) == top(&q));
        }
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
        near(found.kld, kld);
        near(found.entropy, entropy);
        near(found.loss, loss);
        assert_eq!((found.same_top, found.n), (same, 3));
    }

    #[test]
    fn the_unchanged_model_differs_in_nothing() {
        let logits = noise(3, 4 * 500);
        let base = Base::new(&logits, &[1, 2, 3, 4]);
        let (found, own) = (base.compare(&logits), base.own());
        assert!(found.mean_kld() < 2e-6 && found.agreement() == 1.0, "{found:?}");
        assert!((found.entropy - own.entropy).abs() < 1e-5 && (found.loss - own.loss).abs() < 1e-4);
    }
}
