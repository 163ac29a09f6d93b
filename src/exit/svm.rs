//! Owns the support vector machine on top and gap: fitted by linfa, kept as its support vectors.

use linfa::prelude::*;
use ndarray::Array2;

/// Decides by the sign of sum(alpha_i * k(x_i, x)) - rho with the Gaussian kernel k(a, b) = exp(-|a - b|^2 / width).
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

/// Width of the kernel: top and gap lie between 0 and 1.
const WIDTH: f64 = 0.1;

/// The penalty of a training row on the wrong side.
const COST: f64 = 1.0;

impl Svm {
    /// Whether to stop.
    pub fn decides(&self, [top, gap]: [f32; 2]) -> bool {
        let kernel = |v: &[f32; 2]| (-((v[0] - top).powi(2) + (v[1] - gap).powi(2)) / self.width).exp();
        let sum: f32 = self.vectors.iter().zip(&self.alpha).map(|(v, alpha)| alpha * kernel(v)).sum();
        sum >= self.rho
    }

    /// Fits top and gap of rows to whether stopping was right. Rows of one kind only give a machine that always
    /// decides so.
    pub(super) fn fit(rows: &[[f32; 2]], right: &[bool]) -> Result<Svm, String> {
        let n_right = right.iter().filter(|&&r| r).count();
        if n_right == 0 || n_right == right.len() {
            let rho = if n_right == 0 { 1.0 } else { -1.0 };
            return Ok(Svm { vectors: Vec::new(), alpha: Vec::new(), rho, width: WIDTH as f32 });
        }
        let records = Array2::from_shape_fn((rows.len(), 2), |(i, j)| f64::from(rows[i][j]));
        let dataset = Dataset::new(records, ndarray::Array1::from(right.to_vec()));
        let params = linfa_svm::Svm::<f64, bool>::params().gaussian_kernel(WIDTH).pos_neg_weights(COST, COST);
        let fitted = params.fit(&dataset).map_err(|e| format!("the support vector machine cannot be fitted: {e}"))?;
        let used = fitted.alpha.iter().enumerate().filter(|(_, a)| a.abs() > 1e-9);
        let (vectors, alpha) = used.map(|(i, &a)| (rows[i], a as f32)).unzip();
        Ok(Svm { vectors, alpha, rho: fitted.rho as f32, width: WIDTH as f32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_learns_a_boundary_and_agrees_with_the_library() {
        let rows: Vec<[f32; 2]> = (0..200).map(|i| [i as f32 / 200.0, (i * 7 % 200) as f32 / 200.0]).collect();
        let right: Vec<bool> = rows.iter().map(|r| r[0] > 0.6).collect();
        let svm = Svm::fit(&rows, &right).unwrap();
        let agree = rows.iter().zip(&right).filter(|(r, right)| svm.decides(**r) == **right).count();
        assert!(agree >= 190, "{agree} of 200");
        assert!(Svm::fit(&rows, &[true; 200]).unwrap().decides([0.0, 0.0]));
        assert!(!Svm::fit(&rows, &[false; 200]).unwrap().decides([1.0, 1.0]));
    }
}
