//! The fitting of a linear lens.

use faer::Mat;
use faer::linalg::solvers::Solve;

use crate::exit::Lens;

/// Ridge regression from a stream of pairs, by its normal equations: memory does not grow with the stream.
pub struct LensFit {
    /// Inputs of all pairs with a 1 behind each, times themselves.
    xx: Mat<f64>,
    /// The same times the outputs.
    xy: Mat<f64>,
    n: usize,
}

/// What is added to the diagonal, as a share of its mean: found on the demo model, where a tenth or ten times of it cost
/// less than 0.5 points of agreement.
const RIDGE: f64 = 1e-2;

impl LensFit {
    /// No pairs yet.
    pub fn new(n_embd: usize) -> LensFit {
        LensFit { xx: Mat::zeros(n_embd + 1, n_embd + 1), xy: Mat::zeros(n_embd + 1, n_embd), n: 0 }
    }

    /// Adds pairs: \[n_embd\] each, one after the other.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        let n_embd = self.xy.ncols();
        let n = x.len() / n_embd;
        let at = |values: &[f32], row: usize, i: usize| f64::from(values[row * n_embd + i]);
        // A 1 behind each row makes the bias one more weight.
        let x = Mat::from_fn(n, n_embd + 1, |row, i| if i < n_embd { at(x, row, i) } else { 1.0 });
        let y = Mat::from_fn(n, n_embd, |row, i| at(y, row, i));
        self.xx += x.transpose() * &x;
        self.xy += x.transpose() * y;
        self.n += n;
    }

    /// The map that fits best; `None` without pairs.
    pub fn solve(&self) -> Option<Lens> {
        let n_embd = self.xy.ncols();
        let ridge = RIDGE * (0..n_embd).map(|i| self.xx[(i, i)]).sum::<f64>() / n_embd as f64;
        // More pairs may follow: the sums stay as they are.
        let mut xx = self.xx.clone();
        // The bias is not held back: it is the mean of what the inputs do not explain.
        (0..n_embd).for_each(|i| xx[(i, i)] += ridge);
        let solved = xx.llt(faer::Side::Lower).ok()?.solve(&self.xy);
        let weights = (0..n_embd).flat_map(|i| (0..n_embd).map(move |out| (i, out)));
        Some(Lens {
            weights: weights.map(|at| solved[at] as f32).collect(),
            bias: (0..n_embd).map(|out| solved[(n_embd, out)] as f32).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn a_lens_finds_a_linear_map_and_folds_into_rows() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut random = |n: usize| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let truth = Lens { weights: random(36), bias: random(6) };
        let mut fit = LensFit::new(6);
        for _ in 0..300 {
            let x = random(30);
            let y: Vec<f32> = x.chunks_exact(6).flat_map(|x| truth.apply(x)).collect();
            fit.add(&x, &y);
        }
        let found = fit.solve().unwrap();
        let (x, row) = (random(6), random(6));
        let (near, wanted) = (found.apply(&x), truth.apply(&x));
        assert!(near.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 0.05), "{near:?} {wanted:?}");
        let (folded, constant) = found.fold(&row);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        assert!((dot(&row, &near) - dot(&folded, &x) - constant).abs() < 1e-5);
        assert!(LensFit::new(4).solve().is_none());
    }
}
