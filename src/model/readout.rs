//! What lies between a hidden state and the logits, for those who read states without a graph.

use super::weights::head_tensor;
use super::{Config, Error};
use crate::ggml;
use crate::gguf::{File, TensorInfo};

/// The norm before the output head, without its weights; with its epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FinalNorm {
    /// States are divided by their root mean square.
    Rms(f32),
    /// States have their mean taken off and are divided by their standard deviation.
    Layer(f32),
    /// States are read as they are.
    None,
}

impl FinalNorm {
    /// A normed hidden state: \[n_embd\]. The output head makes of it what it makes of the state itself.
    pub fn apply(self, hidden: &[f32]) -> Vec<f32> {
        let scaled = |x: &[f32], eps: f32| {
            let squares = sum_of_squares(x);
            let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
            x.iter().map(|x| x * scale).collect()
        };
        match self {
            FinalNorm::Rms(eps) => scaled(hidden, eps),
            FinalNorm::Layer(eps) => {
                let mean = hidden.iter().sum::<f32>() / hidden.len() as f32;
                scaled(&hidden.iter().map(|x| x - mean).collect::<Vec<_>>(), eps)
            }
            FinalNorm::None => hidden.to_vec(),
        }
    }
}

/// In sums side by side: in one, each addition waits for the last.
fn sum_of_squares(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}

/// A token's logit as a linear function of a normed hidden state: a row \[n_embd\], and a constant.
pub type OutputRow = (Vec<f32>, f32);

/// Rows of the output head with what lies before it folded in: the norm's weight and bias, and the map to the embeddings'
/// width.
pub(super) fn output_rows(file: &File, config: &Config, tokens: &[u32]) -> Result<Vec<OutputRow>, Error> {
    let find = |name: &str| file.tensor(name).ok_or_else(|| Error::missing(file, name));
    let values = |info: &TensorInfo| ggml::dequantize(info.dtype, file.data(info));
    let head = head_tensor(file).ok_or_else(|| Error::missing(file, "token_embd.weight"))?;
    let row_bytes = head.bytes / config.n_vocab;
    let row = |&token: &u32| ggml::dequantize(head.dtype, &file.data(head)[token as usize * row_bytes..][..row_bytes]);
    let mut rows: Vec<Vec<f32>> = tokens.iter().map(row).collect();
    if config.n_embd_word != config.n_embd {
        let map = values(find("token_embd_proj_out.weight")?); // a row [n_embd] for each element of an embedding
        rows.iter_mut().for_each(|row| *row = combined(row, &map, config.n_embd));
    }
    let bias = file.tensor("output.bias").map(values);
    let scale = config.logit_scale.unwrap_or(1.0);
    let rows = rows.into_iter().zip(tokens).map(|(row, &token)| {
        let constant = bias.as_ref().map_or(0.0, |bias| bias[token as usize]);
        (row.into_iter().map(|w| w * scale).collect(), constant * scale)
    });
    if config.final_norm() == FinalNorm::None {
        return Ok(rows.collect());
    }
    let weight = values(find("output_norm.weight")?);
    let bias = match config.final_norm() {
        FinalNorm::Layer(_) => file.tensor("output_norm.bias").map(values),
        FinalNorm::Rms(_) | FinalNorm::None => None,
    };
    let folded = |(row, constant): OutputRow| {
        let constant = constant + bias.iter().flatten().zip(&row).map(|(b, w)| b * w).sum::<f32>();
        (row.iter().zip(&weight).map(|(w, n)| w * n).collect(), constant)
    };
    Ok(rows.map(folded).collect())
}

/// The sum of the rows \[n\] of `map`, each times its factor.
fn combined(factors: &[f32], map: &[f32], n: usize) -> Vec<f32> {
    let mut sum = vec![0.0; n];
    for (factor, row) in factors.iter().zip(map.chunks_exact(n)) {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
    }
    sum
}
