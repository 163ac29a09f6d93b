//! Owns the linear lens: a map from the hidden state after some layers to what the last layer would make of it.

/// y = W x + b, for hidden states normed as before the output head.
#[derive(Clone, Debug, PartialEq)]
pub struct Lens {
    /// \[n_embd, n_embd\], a row per input: so a map is a sum of rows, which needs no order and takes a tenth of the time.
    pub weights: Vec<f32>,
    /// \[n_embd\]
    pub bias: Vec<f32>,
}

impl Lens {
    /// Maps a vector \[n_embd\].
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = self.bias.clone();
        // Row by row of the inputs: every sum is its own, and the loop is vectorized without changing an order.
        for (x, row) in x.iter().zip(self.weights.chunks_exact(x.len())) {
            y.iter_mut().zip(row).for_each(|(y, w)| *y += x * w);
        }
        y
    }

    /// A row of the output head that reads what the lens gives, as a row that reads what the lens takes, and a constant.
    pub fn fold(&self, row: &[f32]) -> (Vec<f32>, f32) {
        let dot = |values: &[f32]| row.iter().zip(values).map(|(w, x)| w * x).sum::<f32>();
        (self.weights.chunks_exact(row.len()).map(dot).collect(), dot(&self.bias))
    }
}
