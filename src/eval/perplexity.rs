//! Owns how a text is cut into chunks and scored, by llama.cpp's conventions: chunks of as many tokens as the context, each
//! evaluated by itself behind the token that begins a text, and only the second half of each is scored.

use std::ops::Range;

use serde::Serialize;

use super::Error;
use crate::engine::TokenId;

/// A text in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<TokenId>,
    n_ctx: usize,
}

impl Chunks {
    /// As many whole chunks of `n_ctx` tokens as there are, and at most `most`. Fewer than two are refused, as llama.cpp does.
    pub fn new(mut tokens: Vec<TokenId>, n_ctx: usize, most: usize) -> Result<Chunks, Error> {
        if n_ctx < 4 {
            return Err(Error::Chunks { expected: "a context of at least 4 tokens".into(), found: n_ctx.to_string() });
        }
        if tokens.len() < 2 * n_ctx {
            let expected = format!("a text of at least {} tokens, two chunks of {n_ctx}", 2 * n_ctx);
            return Err(Error::Chunks { expected, found: tokens.len().to_string() });
        }
        tokens.truncate((tokens.len() / n_ctx).min(most) * n_ctx);
        Ok(Chunks { tokens, n_ctx })
    }

    /// The tokens of whole chunks that were stored; `most` of them are kept.
    pub(super) fn stored(mut tokens: Vec<TokenId>, n_ctx: usize, most: usize) -> Chunks {
        tokens.truncate(n_ctx * most.min(tokens.len() / n_ctx));
        Chunks { tokens, n_ctx }
    }

    /// The tokens of all chunks.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens of a chunk.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// What is evaluated for chunk `i`: its first token gives way to the one that begins a text, where the model has one.
    pub fn input(&self, i: usize, bos: Option<TokenId>) -> Vec<TokenId> {
        let mut input = self.tokens[i * self.n_ctx..][..self.n_ctx].to_vec();
        input[0] = bos.unwrap_or(input[0]);
        input
    }

    /// The places of a chunk whose logits are scored, each by the token behind it: the second half but for the last.
    pub fn scored(&self) -> Range<usize> {
        self.n_ctx / 2..self.n_ctx - 1
    }

    /// The tokens of chunk `i` that the scored places are to foretell.
    pub fn targets(&self, i: usize) -> &[TokenId] {
        &self.tokens[i * self.n_ctx..][self.scored().start + 1..self.n_ctx]
    }
}

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Running sums of a quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Moments {
    /// One more value.
    pub fn add(&mut self, x: f64) {
        self.n += 1;
        self.sum += x;
        self.squares += x * x;
    }

    /// Values so far.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The mean; its error is that of as many independent values: the root of variance / (n - 1).
    pub fn mean(&self) -> Estimate {
        let n = self.n.max(1) as f64;
        let value = self.sum / n;
        let variance = (self.squares / n - value * value).max(0.0);
        Estimate { value, error: (variance / (n - 1.0).max(1.0)).sqrt() }
    }

    /// Of negative log-likelihoods: the perplexity, exp(mean), its error to first order.
    pub fn perplexity(&self) -> Estimate {
        let mean = self.mean();
        let value = mean.value.exp();
        Estimate { value, error: value * mean.error }
    }
}

impl FromIterator<f64> for Moments {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Moments {
        let mut moments = Moments::default();
        values.into_iter().for_each(|x| moments.add(x));
        moments
    }
}

/// The largest logit, its place, and the logarithm of the softmax's denominator, counted from it. Exponentials are of single
/// precision, their sum is of double: the vocabulary is long.
pub(super) fn normalizer(logits: &[f32]) -> (f32, usize, f64) {
    let (mut max, mut at) = (f32::NEG_INFINITY, 0);
    for (i, &x) in logits.iter().enumerate() {
        if x > max {
            (max, at) = (x, i);
        }
    }
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    (max, at, sum.ln())
}

/// Negative natural logarithm of the softmax of `logits` at `token`.
pub fn surprise(logits: &[f32], token: TokenId) -> f64 {
    let (max, _, log_sum) = normalizer(logits);
    log_sum - f64::from(logits[token as usize] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_as_llama_cpp_does() {
        let chunks = Chunks::new((10..35).collect(), 8, usize::MAX).unwrap();
        assert_eq!((chunks.len(), chunks.scored()), (3, 4..7));
        assert_eq!(chunks.input(1, Some(1)), [1, 19, 20, 21, 22, 23, 24, 25]);
        assert_eq!(chunks.input(1, None)[0], 18);
        assert_eq!(chunks.targets(1), [23, 24, 25]);
        assert_eq!(Chunks::new((0..35).collect(), 8, 2).unwrap().len(), 2);
        // An odd context: half of it, rounded down, is not scored.
        let odd = Chunks::new((0..10).collect(), 5, usize::MAX).unwrap();
        assert_eq!((odd.scored(), odd.targets(0)), (2..4, &[3, 4][..]));
        let error = Chunks::new((0..15).collect(), 8, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("at least 16 tokens") && error.contains("found 15"), "{error}");
        assert!(Chunks::new((0..15).collect(), 3, usize::MAX).is_err());
    }

    #[test]
    fn perplexity_of_even_guesses_is_their_number() {
        let surprises = (0..100).map(|_| surprise(&[0.5; 7], 3));
        let ppl = surprises.collect::<Moments>().perplexity();
        // Each exponential is exact here, and 100 roundings of doubles are far below this.
        assert!((ppl.value - 7.0).abs() < 1e-12 && ppl.error < 1e-6, "{ppl:?}");
        assert!((surprise(&[1000.0, -1000.0], 1) - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn the_error_of_a_mean_shrinks_with_the_root_of_the_number() {
        let mean = [1.0, 3.0].repeat(50).into_iter().collect::<Moments>().mean();
        assert_eq!(mean.value, 2.0);
        assert!((mean.error - (1.0f64 / 99.0).sqrt()).abs() < 1e-12);
    }
}
