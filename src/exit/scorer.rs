//! Owns how sure a reading is: a number from top and gap that is high where stopping was right.

/// Makes a score of top and gap.
#[derive(Clone, Debug, PartialEq)]
pub enum Scorer {
    /// Top itself.
    Top,
    /// weights · (top, gap) + bias: log-odds of a logistic regression, or a linear support vector machine.
    Linear {
        /// Of top and of gap.
        weights: [f32; 2],
        /// What is added.
        bias: f32,
    },
    /// A support vector machine with a Gaussian kernel.
    Svm(Svm),
    /// A link of a chain over the checkpoints: log-odds of "right" given all looks so far.
    Crf(Crf),
}

/// sum(alpha_i * k(x_i, x)) - rho with the Gaussian kernel k(a, b) = exp(-|a - b|^2 / width).
#[derive(Clone, Debug, PartialEq)]
pub struct Svm {
    /// Support vectors: top and gap of training rows.
    pub vectors: Vec<[f32; 2]>,
    /// Their weights.
    pub alpha: Vec<f32>,
    /// The offset.
    pub rho: f32,
    /// Width of the kernel.
    pub width: f32,
}

impl Svm {
    /// Positive where stopping is right.
    pub fn score(&self, [top, gap]: [f32; 2]) -> f32 {
        // Top and gap lie between 0 and 1: one width is right for both.
        let kernel = |v: &[f32; 2]| (-((v[0] - top).powi(2) + (v[1] - gap).powi(2)) / self.width).exp();
        self.vectors.iter().zip(&self.alpha).map(|(v, alpha)| alpha * kernel(v)).sum::<f32>() - self.rho
    }
}

/// One link of a linear-chain conditional random field over the states "wrong" (0) and "right" (1).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Crf {
    /// Of each state: weights of top, of gap, and a bias.
    pub state: [[f32; 3]; 2],
    /// \[from\]\[to\]
    pub transition: [[f32; 2]; 2],
}

impl Crf {
    /// The forward recursion: log-weights of the states after this look, scaled so that the larger is 0.
    pub(super) fn follow(&self, before: Option<[f32; 2]>, [top, gap]: [f32; 2]) -> [f32; 2] {
        let reach = |to: usize| match before {
            // The first look has nothing before it: any state may begin.
            None => 0.0,
            Some(before) => log_add(before[0] + self.transition[0][to], before[1] + self.transition[1][to]),
        };
        let at = |s: usize| reach(s) + self.state[s][0] * top + self.state[s][1] * gap + self.state[s][2];
        let (wrong, right) = (at(0), at(1));
        // Only their difference counts; without this, sums over many looks would leave f32's range.
        let largest = wrong.max(right);
        [wrong - largest, right - largest]
    }
}

fn log_add(a: f32, b: f32) -> f32 {
    // The smaller is added to the larger: so the exponential cannot overflow.
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_adds_up_all_ways_to_a_state() {
        let step = |w: f32| Crf { state: [[0.1, 0.2, 0.3], [w, -0.5, 0.2]], transition: [[0.4, -0.3], [-1.0, 0.8]] };
        let looks = [(step(1.0), [0.3, 0.1]), (step(2.0), [0.6, 0.4]), (step(0.5), [0.9, 0.7])];
        let at =
            |s: usize, step: &Crf, x: [f32; 2]| step.state[s][0] * x[0] + step.state[s][1] * x[1] + step.state[s][2];
        let mut ways = [0f32; 2];
        for path in 0..8usize {
            let states = [path & 1, path >> 1 & 1, path >> 2];
            let mut sum = 0.0;
            for (i, (step, x)) in looks.iter().enumerate() {
                sum += at(states[i], step, *x);
                sum += if i > 0 { step.transition[states[i - 1]][states[i]] } else { 0.0 };
            }
            ways[states[2]] += sum.exp();
        }
        let belief = looks.iter().fold(None, |belief, (step, x)| Some(step.follow(belief, *x))).unwrap();
        assert!((belief[1] - belief[0] - (ways[1] / ways[0]).ln()).abs() < 1e-5, "{belief:?} {ways:?}");
    }
}
