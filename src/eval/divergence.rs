//! Owns the comparison of two distributions over the vocabulary, place by place, and its statistics: those that llama.cpp's
//! `--kl-divergence` prints, by the same formulas.

use serde::Serialize;

use super::perplexity::{Estimate, Moments, normalizer};
use crate::engine::TokenId;

/// A distribution to compare with: natural logarithms of probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Base<'b> {
    /// \[n_vocab\]
    pub log_probs: &'b [f32],
    /// Tokens at or below this do not count for the divergence.
    pub floor: f32,
}

/// Two distributions at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Negative log-likelihood of the text's token.
    pub surprise: f64,
    /// The same by the base.
    pub surprise_base: f64,
    /// Kullback-Leibler divergence of the base from the other: sum of p_base ln(p_base / p).
    pub kld: f64,
    /// Probability of the text's token, less the base's.
    pub delta_p: f64,
    /// Whether both have the same best token.
    pub same_top: bool,
}

/// Natural logarithms of the softmax of `logits`, into `log_probs`.
pub fn log_softmax(logits: &[f32], log_probs: &mut Vec<f32>) {
    let (max, _, log_sum) = normalizer(logits);
    log_probs.clear();
    log_probs.extend(logits.iter().map(|&x| x - max - log_sum as f32));
}

/// Compares the softmax of `logits` with a base where the text goes on with `token`.
pub fn compare(base: Base<'_>, logits: &[f32], token: TokenId) -> Compared {
    let (max, top, log_sum) = normalizer(logits);
    let (mut kld, mut top_base) = (0.0f64, 0);
    for (i, (&base_log, &x)) in base.log_probs.iter().zip(logits).enumerate() {
        if base_log > base.log_probs[top_base] {
            top_base = i;
        }
        if base_log > base.floor {
            let ratio = f64::from(base_log) - f64::from(x - max) + log_sum;
            kld += f64::from(base_log.exp()) * ratio;
        }
    }
    let surprise = log_sum - f64::from(logits[token as usize] - max);
    let surprise_base = -f64::from(base.log_probs[token as usize]);
    let delta_p = (-surprise).exp() - (-surprise_base).exp();
    Compared { surprise, surprise_base, kld, delta_p, same_top: top == top_base }
}

/// Of two models, or two depths of one, over a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Places compared.
    pub n: usize,
    /// Perplexity of what is compared.
    pub ppl: Estimate,
    /// Perplexity of the base.
    pub ppl_base: Estimate,
    /// Correlation of the logarithms of both, place by place.
    pub ln_ppl_correlation: f64,
    /// Logarithm of their ratio.
    pub ln_ppl_ratio: Estimate,
    /// Their ratio.
    pub ppl_ratio: Estimate,
    /// Their difference.
    pub ppl_difference: Estimate,
    /// Kullback-Leibler divergence.
    pub kld: Estimate,
    /// Quantiles of it.
    pub kld_quantiles: Vec<Quantile>,
    /// Change of the probability of the text's token.
    pub delta_p: Estimate,
    /// Root of its mean square.
    pub delta_p_rms: Estimate,
    /// Quantiles of it.
    pub delta_p_quantiles: Vec<Quantile>,
    /// Share of places with the same best token.
    pub same_top: Estimate,
}

/// A share of the places, and the value that as many of them do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantile {
    /// From 0 (the least) to 1 (the largest).
    pub share: f64,
    /// The value.
    pub value: f64,
}

/// Shares whose quantiles of the divergence are told, from the largest value to the least.
const KLD_SHARES: [f64; 11] = [1.0, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001, 0.0];

/// The same for changes of probability.
const DELTA_SHARES: [f64; 13] = [1.0, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001, 0.0];

impl Divergence {
    /// The statistics of the places compared so far; all zero for none.
    pub fn of(places: &[Compared]) -> Divergence {
        let moments = |value: fn(&Compared) -> f64| places.iter().map(value).collect::<Moments>();
        let (own, base) = (moments(|p| p.surprise), moments(|p| p.surprise_base));
        let (ppl, ppl_base) = (own.perplexity(), base.perplexity());
        let (ln_own, ln_base) = (own.mean(), base.mean());
        let covariance = covariance(places, ln_own.value, ln_base.value);
        // Errors of differences come from the differences: between close models those of the parts nearly cancel.
        let ln_ppl_ratio = moments(|p| p.surprise - p.surprise_base).mean();
        let ratio = ln_ppl_ratio.value.exp();
        let ppl_ratio = Estimate { value: ratio, error: ratio * ln_ppl_ratio.error };
        let weighed = |p: &Compared| ppl.value * p.surprise - ppl_base.value * p.surprise_base;
        let error = places.iter().map(weighed).collect::<Moments>().mean().error;
        let ppl_difference = Estimate { value: ppl.value - ppl_base.value, error };
        let mean_square = moments(|p| p.delta_p * p.delta_p).mean();
        let rms = mean_square.value.sqrt();
        Divergence {
            n: places.len(),
            ppl,
            ppl_base,
            ln_ppl_correlation: covariance / (ln_own.error * ln_base.error).max(f64::MIN_POSITIVE),
            ln_ppl_ratio,
            ppl_ratio,
            ppl_difference,
            kld: moments(|p| p.kld).mean(),
            kld_quantiles: quantiles(places.iter().map(|p| p.kld).collect(), &KLD_SHARES),
            delta_p: moments(|p| p.delta_p).mean(),
            delta_p_rms: Estimate { value: rms, error: 0.5 * mean_square.error / rms.max(f64::MIN_POSITIVE) },
            delta_p_quantiles: quantiles(places.iter().map(|p| p.delta_p).collect(), &DELTA_SHARES),
            same_top: moments(|p| f64::from(u8::from(p.same_top))).mean(),
        }
    }
}

/// Of the means of both surprises.
fn covariance(places: &[Compared], mean: f64, mean_base: f64) -> f64 {
    let n = places.len() as f64;
    let product = places.iter().map(|p| p.surprise * p.surprise_base).sum::<f64>() / n.max(1.0);
    (product - mean * mean_base) / (n - 1.0).max(1.0)
}

/// Between two neighbouring values a quantile lies where its share does.
fn quantiles(mut values: Vec<f64>, shares: &[f64]) -> Vec<Quantile> {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Vec::new() };
    let at = |share: f64| {
        let place = share * last as f64;
        let (below, part) = (place as usize, place.fract());
        (1.0 - part) * values[below] + part * values[(below + 1).min(last)]
    };
    shares.iter().map(|&share| Quantile { share, value: at(share) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: f32 = f32::NEG_INFINITY;

    fn logs(probs: &[f32]) -> Vec<f32> {
        probs.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn the_divergence_of_two_known_distributions() {
        let (p, q) = ([0.5f32, 0.25, 0.25], [0.25f32, 0.5, 0.25]);
        let compared = compare(Base { log_probs: &logs(&p), floor: EXACT }, &logs(&q), 0);
        // 0.5 ln 2 - 0.25 ln 2; logarithms of single precision carry seven digits.
        assert!((compared.kld - 0.25 * 2f64.ln()).abs() < 1e-6, "{compared:?}");
        assert!((compared.delta_p + 0.25).abs() < 1e-6 && !compared.same_top);
        assert!((compared.surprise - 4f64.ln()).abs() < 1e-6 && (compared.surprise_base - 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_distribution_does_not_diverge_from_itself() {
        let logits = [3.0, -40.0, 2.5, 0.0];
        let mut own = Vec::new();
        log_softmax(&logits, &mut own);
        let compared = compare(Base { log_probs: &own, floor: EXACT }, &logits, 1);
        assert!(compared.kld.abs() < 1e-6 && compared.same_top && compared.delta_p.abs() < 1e-9, "{compared:?}");
    }

    #[test]
    fn tokens_at_the_floor_do_not_count() {
        let base = [0.0, -16.0];
        let at = |floor| compare(Base { log_probs: &base, floor }, &[0.0, -90.0], 0).kld;
        // exp(-16) (-16 + 90) is what the second token adds.
        assert!(at(-16.0).abs() < 1e-12 && (at(EXACT) - 74.0 * (-16f64).exp()).abs() < 1e-9);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let found = quantiles(vec![4.0, 1.0, 2.0, 3.0], &[0.0, 0.5, 0.9, 1.0]);
        let values: Vec<f64> = found.iter().map(|q| q.value).collect();
        assert_eq!(values[..2], [1.0, 2.5]);
        assert!((values[2] - 3.7).abs() < 1e-12 && values[3] == 4.0);
        assert!(quantiles(Vec::new(), &[0.5]).is_empty());
    }

    #[test]
    fn the_statistics_of_two_places() {
        let place = |surprise, kld, same_top| Compared { surprise, surprise_base: 1.0, kld, delta_p: -0.5, same_top };
        let found = Divergence::of(&[place(1.0, 0.0, true), place(3.0, 1.0, false)]);
        assert!((found.ppl.value - 2f64.exp()).abs() < 1e-12 && (found.ppl_base.value - 1f64.exp()).abs() < 1e-12);
        assert!((found.ln_ppl_ratio.value - 1.0).abs() < 1e-12 && (found.ppl_ratio.value - 1f64.exp()).abs() < 1e-12);
        assert_eq!((found.kld.value, found.same_top.value, found.n), (0.5, 0.5, 2));
        assert!((found.delta_p_rms.value - 0.5).abs() < 1e-12);
    }
}
