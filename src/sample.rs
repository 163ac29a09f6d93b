//! Owns the choice of the next token from logits. Refuses to know where logits come from.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How tokens are chosen. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerParams {
    /// 0 always takes the most probable token.
    pub temperature: f32,
    /// Keeps this many of the most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that together reach this probability (arXiv 1904.09751); 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this share as probable as the most probable (arXiv 2407.01082); 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens (arXiv 1909.05858, sec. 4.1); 1 does nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens are recent.
    pub repeat_last_n: usize,
    /// Start of the random sequence; `None` takes one from the system.
    pub seed: Option<u64>,
}

impl Default for SamplerParams {
    fn default() -> SamplerParams {
        SamplerParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: None,
        }
    }
}

/// Chooses tokens; the same seed gives the same choices.
#[derive(Clone)]
pub struct Sampler {
    params: SamplerParams,
    seed: u64,
    rng: ChaCha8Rng,
    /// Reused between tokens: logit, then probability, of each candidate.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    pub fn new(params: SamplerParams) -> Sampler {
        let seed = params.seed.unwrap_or_else(rand::random);
        Sampler { params, seed, rng: ChaCha8Rng::seed_from_u64(seed), candidates: Vec::new() }
    }

    /// Always the most probable token.
    pub fn greedy() -> Sampler {
        Sampler::new(SamplerParams { temperature: 0.0, ..SamplerParams::default() })
    }

    /// How many of the most probable tokens the choice is among; `None` if any token may be chosen, or counts.
    pub fn reach(&self) -> Option<usize> {
        let p = &self.params;
        let recent = if p.repeat_penalty == 1.0 { 0 } else { p.repeat_last_n };
        // A penalty below 1 lifts tokens from anywhere.
        if p.repeat_penalty < 1.0 {
            return None;
        }
        let chosen = if p.temperature <= 0.0 { 1 } else { p.top_k };
        (chosen > 0).then(|| chosen.saturating_add(recent))
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next token after `history`. Ties go to the lowest id; NaN counts as impossible.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let penalize = self.params.repeat_penalty != 1.0 && self.params.repeat_last_n > 0;
        if self.params.temperature <= 0.0 && !penalize {
            return argmax(logits);
        }
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits.iter().map(|&l| if l.is_nan() { f32::NEG_INFINITY } else { l })));
        if penalize {
            self.penalize(history);
        }
        if self.params.temperature <= 0.0 {
            return self
                .candidates
                .iter()
                .fold((0, f32::NEG_INFINITY), |best, &c| if c.1 > best.1 { c } else { best })
                .0;
        }
        self.keep_top_k();
        self.candidates.sort_unstable_by(by_logit);
        self.keep_top_p();
        self.keep_min_p();
        self.draw()
    }

    fn penalize(&mut self, history: &[u32]) {
        let mut recent = history[history.len().saturating_sub(self.params.repeat_last_n)..].to_vec();
        recent.sort_unstable();
        recent.dedup();
        for id in recent {
            if let Some((_, logit)) = self.candidates.get_mut(id as usize) {
                *logit = if *logit > 0.0 {
                    *logit / self.params.repeat_penalty
                } else {
                    *logit * self.params.repeat_penalty
                };
            }
        }
    }

    fn keep_top_k(&mut self) {
        let k = self.params.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k, by_logit);
            self.candidates.truncate(k);
        }
    }

    fn keep_top_p(&mut self) {
        if self.params.top_p >= 1.0 {
            return;
        }
        let weights = self.weights(1.0);
        let total: f32 = weights.iter().sum();
        let mut sum = 0.0;
        let reach = weights.iter().position(|w| {
            sum += w / total;
            sum >= self.params.top_p
        });
        self.candidates.truncate(reach.map_or(self.candidates.len(), |i| i + 1));
    }

    fn keep_min_p(&mut self) {
        let least = self.candidates[0].1 + self.params.min_p.ln();
        if self.params.min_p > 0.0 {
            self.candidates.retain(|c| c.1 >= least);
        }
    }

    fn draw(&mut self) -> u32 {
        let weights = self.weights(self.params.temperature);
        let mut left = self.rng.random::<f32>() * weights.iter().sum::<f32>();
        let drawn = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        self.candidates[drawn.unwrap_or(0)].0
    }

    /// Probabilities of the candidates, most probable first, up to a common factor.
    fn weights(&self, temperature: f32) -> Vec<f32> {
        let most = self.candidates[0].1;
        // With every logit at -inf the difference is NaN: the first candidate then stands alone.
        let weight = |logit: f32| ((logit - most) / temperature).exp();
        self.candidates.iter().map(|c| weight(c.1)).map(|w| if w.is_nan() { 0.0 } else { w }).collect()
    }
}

/// Most probable first, then lowest id.
fn by_logit(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Index of the largest value, the first of several; NaN never wins.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &value) in (0..).zip(values) {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random::<f32>() * 12.0 - 6.0).collect()
    }

    /// Probabilities after top-k, top-p and min-p, straight from the definitions.
    fn naive_kept(logits: &[f32], k: usize, p: f64, min_p: f64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        order.truncate(k);
        let prob = |id: u32| f64::from(logits[id as usize]).exp();
        let total: f64 = order.iter().map(|&id| prob(id)).sum();
        let mut sum = 0.0;
        let n = order
            .iter()
            .take_while(|&&id| {
                let before = sum;
                sum += prob(id) / total;
                before < p
            })
            .count();
        order.truncate(n);
        let most = prob(order[0]);
        order.retain(|&id| prob(id) >= min_p * most);
        order
    }

    #[test]
    fn draws_exactly_the_tokens_that_the_definitions_keep() {
        for seed in 0..20 {
            let logits = logits(seed, 50);
            let params = SamplerParams {
                temperature: 1.5,
                top_k: 12,
                top_p: 0.9,
                min_p: 0.05,
                seed: Some(seed),
                ..Default::default()
            };
            let mut sampler = Sampler::new(params);
            let mut drawn: Vec<u32> = (0..4000).map(|_| sampler.sample(&logits, &[])).collect();
            drawn.sort_unstable();
            drawn.dedup();
            let mut kept = naive_kept(&logits, 12, 0.9, 0.05);
            kept.sort_unstable();
            assert_eq!(drawn, kept, "seed {seed}");
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0];
        let params =
            SamplerParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(7), ..Default::default() };
        let mut sampler = Sampler::new(params);
        let n = 20_000;
        let mut counts = [0.0f32; 3];
        (0..n).for_each(|_| counts[sampler.sample(&logits, &[]) as usize] += 1.0);
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            // Five standard deviations of a frequency over 20,000 draws are below 0.018.
            assert!((count / n as f32 - logit.exp() / total).abs() < 0.018, "{counts:?}");
        }
    }

    #[test]
    fn same_seed_same_tokens_and_zero_temperature_is_argmax() {
        let logits = logits(3, 1000);
        let run = |seed| {
            let mut s = Sampler::new(SamplerParams { seed: Some(seed), ..Default::default() });
            (0..50).map(|_| s.sample(&logits, &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let mut greedy = Sampler::new(SamplerParams { temperature: 0.0, ..Default::default() });
        assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, f32::NAN], &[]), 1);
    }

    #[test]
    fn a_penalty_moves_the_choice_and_bad_numbers_do_not_panic() {
        let params = SamplerParams { temperature: 0.0, repeat_penalty: 2.0, ..Default::default() };
        assert_eq!(Sampler::new(params).sample(&[1.0, 3.0, 2.0], &[1]), 2);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            Sampler::new(SamplerParams::default()).sample(&[bad; 100], &[]);
        }
    }
}
