//! Owns the multiplication by weight matrices, with what comes right before and after it: where the weight is packed,
//! norm, bias, residual and activation are part of the one node, so that threads meet once instead of up to six times.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::sync::LazyLock;

use half::f16;

use super::norm::Norm;
use super::packed::{GROUP, Packing};
use super::scratch::Scratch;
use super::weight::Weight;
use crate::dtype::DType;
use crate::ggml::{Activation, Node, NodeRun, Ops, Tensor, bytes, row, swiglu};

/// What is done before and after a multiplication.
#[derive(Clone, Copy, Default)]
pub struct Fused<'g> {
    /// Norm of the input first; its tensors are f32 \[n_in\].
    pub norm: Option<Norm<Tensor<'g>>>,
    /// Added to the products: f32 \[n_out\].
    pub bias: Option<Tensor<'g>>,
    /// What becomes of the sums.
    pub activation: Option<Activation>,
    /// Added at the end: f32, of the result's shape.
    pub residual: Option<Tensor<'g>>,
}

/// Up to this many rows every thread prepares the activations by itself, which is quicker than to wait for another.
const OWN_ROWS: usize = 4;

/// Rows kept near the processor while the groups of the matrix pass by.
const ROWS: usize = 64;

impl<'g> Ops<'g> {
    /// The products of `weight` \[n_in, n_out\] with `x` f32 \[n_in, t\], and what is done around it: f32 \[n_out, t\],
    /// or \[n_out / 2, t\] with a gated activation.
    #[track_caller]
    pub fn linear(&self, weight: &'g Weight, x: Tensor<'g>, fused: Fused<'g>) -> Tensor<'g> {
        self.observe(weight.tensor(), x, fused.norm);
        match weight.packing() {
            Some(packing) if !is_gated(fused) || packing.n_out().is_multiple_of(2 * GROUP) => {
                self.packed(weight.tensor(), packing, x, fused)
            }
            // Gate and up of one result lie in groups of their own only where half of the rows is whole groups.
            Some(packing) => {
                let inside = Fused { activation: None, residual: None, ..fused };
                let products = self.packed(weight.tensor(), packing, x, inside);
                self.after(products, Fused { bias: None, ..fused })
            }
            None => {
                let x = fused.norm.map_or(x, |norm| self.norm(x, norm));
                self.after(self.mul_mat(weight.tensor(), x), fused)
            }
        }
    }

    fn after(&self, y: Tensor<'g>, fused: Fused<'g>) -> Tensor<'g> {
        let y = fused.bias.map_or(y, |bias| self.add(y, bias));
        let y = fused.activation.map_or(y, |activation| self.activation(activation, y));
        fused.residual.map_or(y, |residual| self.add(y, residual))
    }

    #[track_caller]
    fn packed(&self, weight: Tensor<'g>, packing: Packing, x: Tensor<'g>, fused: Fused<'g>) -> Tensor<'g> {
        let ([n_in, n_rows, 1, 1], DType::F32) = (x.shape(), x.dtype()) else { panic!("linear: rows of {x:?}") };
        assert!(n_in == packing.n_in() && x.strides()[0] == size_of::<f32>(), "linear: {packing:?} by {x:?}");
        let n_out = if is_gated(fused) { packing.n_out() / 2 } else { packing.n_out() };
        assert!(fused.bias.is_none_or(|b| is_vector(b, packing.n_out())), "linear: bias {:?}", fused.bias);
        let same = |r: Tensor<'_>| r.shape() == [n_out, n_rows, 1, 1] && r.strides()[0] == size_of::<f32>();
        assert!(fused.residual.is_none_or(same), "linear: residual {:?}", fused.residual);

        // Rows in a node before it are prepared once, by all threads together, and cost a meeting of the threads.
        let is_prepared = n_rows > OWN_ROWS;
        let (input, norm) = if is_prepared {
            // The norm goes with the rounding, which reads each row whole as it does.
            let mut sources = Sources(vec![x]);
            let norm = fused.norm.map(|norm| sources.add_norm(norm, n_in));
            let prepare = Prepare { packing, norm };
            (self.node(DType::I8, [packing.activation_bytes(), n_rows], &sources.0, prepare), None)
        } else {
            (x, fused.norm)
        };
        let mut sources = Sources(vec![weight, input]);
        let multiply = Multiply {
            packing,
            is_prepared,
            norm: norm.map(|norm| sources.add_norm(norm, n_in)),
            bias: fused.bias.map(|bias| sources.add(bias)),
            activation: fused.activation,
            residual: fused.residual.map(|residual| sources.add(residual)),
        };
        self.node(DType::F32, [n_out, n_rows], &sources.0, multiply)
    }
}

fn is_gated(fused: Fused<'_>) -> bool {
    fused.activation.is_some_and(Activation::is_gated)
}

/// The sources of a node in the making.
pub(super) struct Sources<'g>(pub(super) Vec<Tensor<'g>>);

impl<'g> Sources<'g> {
    /// Adds a source, gives its place.
    fn add(&mut self, source: Tensor<'g>) -> usize {
        self.0.push(source);
        self.0.len() - 1
    }

    /// Adds a norm of rows \[n\].
    #[track_caller]
    pub(super) fn add_norm(&mut self, norm: Norm<Tensor<'g>>, n: usize) -> Norm<usize> {
        norm.map(|tensor| {
            assert!(is_vector(tensor, n), "norm of rows of {n}: {tensor:?}");
            self.add(tensor)
        })
    }
}

fn is_vector(t: Tensor<'_>, n: usize) -> bool {
    t.dtype() == DType::F32 && t.shape() == [n, 1, 1, 1]
}

/// Rounds rows of activations to 8 bits, after a norm where there is one.
struct Prepare {
    packing: Packing,
    norm: Option<Norm<usize>>,
}

impl Node for Prepare {
    /// Sources: x, the norm's.
    fn run(&self, run: &NodeRun<'_>) {
        let (dst, row_bytes) = (run.dst(), self.packing.activation_bytes());
        for i in run.share(dst.shape()[1]) {
            // SAFETY: the graph runs this node after its sources; this thread alone writes row i.
            unsafe {
                let place = std::slice::from_raw_parts_mut(dst.data().add(i * row_bytes), row_bytes);
                let norm = self.norm.map(|norm| norm.read(run));
                prepare(&self.packing, row(run.source(0), i), norm, place);
            }
        }
    }
}

/// Rounds a row of activations, after a norm where there is one.
pub(super) fn prepare(packing: &Packing, x: &[f32], norm: Option<Norm<&[f32]>>, place: &mut [u8]) {
    // A node without a norm reads the row where it lies.
    let Some(norm) = norm else { return packing.prepare(x, place) };
    let mut scratch = Scratch::take();
    let normed = scratch.floats(x.len());
    norm.apply(x, normed);
    packing.prepare(normed, place);
}

/// Multiplies packed weights by rows of activations.
struct Multiply {
    packing: Packing,
    is_prepared: bool,
    norm: Option<Norm<usize>>,
    /// Its place among the sources.
    bias: Option<usize>,
    activation: Option<Activation>,
    /// Its place among the sources.
    residual: Option<usize>,
}

impl Node for Multiply {
    /// Sources: weight, x; where there are any: the norm's, bias, residual.
    fn run(&self, run: &NodeRun<'_>) {
        let n_rows = run.dst().shape()[1];
        let row_bytes = self.packing.activation_bytes();
        // Held to the end of the node: the rows lie in it where no node before prepared them.
        let mut scratch = Scratch::take();
        // SAFETY: the graph runs this node after its sources, which nothing writes meanwhile.
        let prepared = unsafe {
            if self.is_prepared {
                bytes(run.source(1))
            } else {
                let norm = self.norm.map(|norm| norm.read(run));
                let places = scratch.bytes(n_rows * row_bytes);
                for (i, place) in places.chunks_exact_mut(row_bytes).enumerate() {
                    prepare(&self.packing, row(run.source(1), i), norm, place);
                }
                places
            }
        };
        // SAFETY: as above.
        let packed = unsafe { bytes(run.source(0)) };
        let group = |g: usize| &packed[g * self.packing.group_bytes()..][..self.packing.group_bytes()];
        let is_gated = self.activation.is_some_and(Activation::is_gated);
        let n_units = if is_gated { self.packing.n_groups() / 2 } else { self.packing.n_groups() };
        // Gate g and up g are the products of groups g and g + n_units: both are at hand when the activation is
        // computed.
        let mut products = [[0.0; GROUP]; ROWS];
        let mut gated = [[0.0; GROUP]; ROWS];
        for (i, rows) in prepared.chunks(ROWS * row_bytes).enumerate() {
            let n = rows.len() / row_bytes;
            // Neighbouring groups: each asks the memory for the next one while it is computed with.
            for unit in run.share(n_units) {
                self.packing.multiply(group(unit), rows, &mut products[..n]);
                if is_gated {
                    self.packing.multiply(group(unit + n_units), rows, &mut gated[..n]);
                }
                for r in 0..n {
                    self.finish(run, i * ROWS + r, unit, &mut products[r], &mut gated[r]);
                }
            }
        }
    }
}

impl Multiply {
    /// Writes sixteen results of row `i`.
    fn finish(&self, run: &NodeRun<'_>, i: usize, unit: usize, products: &mut [f32; GROUP], gated: &mut [f32; GROUP]) {
        let dst = run.dst();
        let n_dst = dst.shape()[0];
        let first = unit * GROUP;
        // The last group may have fewer rows than sixteen; its other products are of zeros.
        let n = GROUP.min(n_dst - first);
        // SAFETY: the sources lie where `Ops::packed` put them, with their shapes checked there; this thread alone
        // writes these results.
        unsafe {
            if let Some(bias) = self.bias {
                let bias = row(run.source(bias), 0);
                add(products, &bias[first..]);
                if self.activation.is_some_and(Activation::is_gated) {
                    add(gated, &bias[n_dst + first..]);
                }
            }
            let y = dst.data().add(i * dst.strides()[1]).cast::<f32>().add(first);
            // In the order of ggml's nodes: bias, activation, residual.
            match self.activation {
                None => {}
                Some(Activation::Swiglu) => {
                    let gate = *products;
                    // ggml's own: its exponential is an approximation with as many lanes as the level in use has.
                    swiglu(&gate, gated, products);
                }
                Some(Activation::Geglu) => products.iter_mut().zip(gated).for_each(|(y, up)| *y = gelu_tanh(*y) * *up),
                Some(Activation::ClampedSwiglu) => {
                    products.iter_mut().zip(gated).for_each(|(y, up)| *y = clamped_swiglu(*y, *up));
                }
                Some(Activation::GeluTanh) => products.iter_mut().for_each(|y| *y = gelu_tanh(*y)),
                // As ggml writes it: `max` might keep the sign of -0.
                Some(Activation::Relu) => products.iter_mut().for_each(|y| *y = if *y > 0.0 { *y } else { 0.0 }),
                Some(Activation::Gelu) => {
                    products.iter_mut().for_each(|y| *y = 0.5 * *y * (1.0 + erff(*y * FRAC_1_SQRT_2)));
                }
            }
            if let Some(residual) = self.residual {
                add(products, &row(run.source(residual), i)[first..]);
            }
            if n == GROUP {
                y.cast::<[f32; GROUP]>().write(*products); // faster than a copy of any length
            } else {
                y.copy_from_nonoverlapping(products.as_ptr(), n);
            }
        }
    }
}

fn add(products: &mut [f32; GROUP], other: &[f32]) {
    products.iter_mut().zip(other).for_each(|(y, x)| *y += x);
}

/// GELU approximated by tanh, rounded as ggml rounds it: it looks values up by their f16.
fn gelu_tanh(x: f32) -> f32 {
    // One value for each f16, as `ggml_table_gelu_f16`; made when the first model needs it.
    static TABLE: LazyLock<Vec<f16>> = LazyLock::new(|| {
        // Rounded once where ggml's compiler joins the product and the sum: f16 tells the two apart at a few places.
        let of = |x: f32| 0.5 * x * (1.0 + tanh(FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * x * (0.044715 * x).mul_add(x, 1.0)));
        (0..=u16::MAX).map(|bits| f16::from_f32(of(f16::from_bits(bits).to_f32()))).collect()
    });
    match x {
        _ if x <= -10.0 => 0.0,
        _ if x >= 10.0 => x,
        _ => TABLE[usize::from(f16::from_f32(x).to_bits())].to_f32(),
    }
}

/// As ggml adds it up.
fn clamped_swiglu(gate: f32, up: f32) -> f32 {
    let limit = Activation::CLAMPED_LIMIT;
    // Not `min`: NaN stays NaN.
    let (gate, up) = (if gate > limit { limit } else { gate }, up.clamp(-limit, limit));
    gate / (1.0 + (Activation::CLAMPED_FACTOR * -gate).exp()) * (up + 1.0)
}

fn tanh(x: f32) -> f32 {
    // SAFETY: a function of a number.
    unsafe { tanhf(x) }
}

unsafe extern "C" {
    /// The error function of the C library, which ggml calls too.
    fn erff(x: f32) -> f32;
    /// Its hyperbolic tangent.
    fn tanhf(x: f32) -> f32;
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::ggml::{Device, Runner, Slot, StoreBuilder, Stored};

    const N_IN: usize = 64;
    const N_OUT: usize = 96;

    /// q4_1 blocks with scales and minima of ordinary size.
    fn weights(rng: &mut ChaCha8Rng) -> Vec<u8> {
        let block = |rng: &mut ChaCha8Rng| {
            let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
            let (d, m) = (half(rng.random_range(0.0..0.1)), half(rng.random_range(-0.5..0.5)));
            let quants: [u8; 16] = rng.random();
            [&d[..], &m, &quants].concat()
        };
        (0..N_OUT * N_IN / 32).flat_map(|_| block(rng)).collect()
    }

    fn floats(n: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        (0..n).flat_map(|_| rng.random_range(-1.0f32..1.0).to_le_bytes()).collect()
    }

    #[test]
    fn one_node_gives_what_the_nodes_of_ggml_give() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for n_rows in [1, 2, OWN_ROWS, OWN_ROWS + 1, ROWS + 3] {
            let data = weights(&mut rng);
            let mut builder = StoreBuilder::new(8);
            let plain = Weight::plain(builder.add_plain("plain", DType::Q4_1, &[N_IN, N_OUT], &data).unwrap());
            let packed = Weight::add_to(&mut builder, "packed", DType::Q4_1, [N_IN, N_OUT], &[&data]).unwrap();
            let mut tensor = |name, shape: &[usize]| {
                builder.add_plain(name, DType::F32, shape, &floats(shape.iter().product(), &mut rng)).unwrap()
            };
            let stored = [
                tensor("norm", &[N_IN]),
                tensor("bias", &[N_OUT]),
                tensor("x", &[N_IN, n_rows]),
                tensor("h", &[N_OUT, n_rows]),
                tensor("g", &[N_OUT / 2, n_rows]),
                tensor("norm's bias", &[N_IN]),
            ];
            let [norm, bias, x, h, g, x_bias] = stored.each_ref().map(Stored::t);
            let mut runner: Runner<usize, (Slot, Slot)> = Runner::new(Device::cpu(2).unwrap());
            let rms = Norm::Rms { weight: norm, eps: 1e-5 };
            let all = Fused { norm: Some(rms), bias: Some(bias), residual: Some(h), activation: None };
            let layer = Fused { norm: Some(Norm::Layer { weight: norm, bias: Some(x_bias), eps: 1e-5 }), ..all };
            let forms = [
                Fused::default(),
                Fused { norm: all.norm, ..Fused::default() },
                all,
                Fused { activation: Some(Activation::Swiglu), residual: Some(g), ..all },
                Fused { activation: Some(Activation::Swiglu), ..Fused::default() },
                Fused { activation: Some(Activation::Geglu), residual: Some(g), ..all },
                layer,
                Fused { norm: Some(Norm::Layer { weight: norm, bias: None, eps: 1e-3 }), ..Fused::default() },
                Fused { activation: Some(Activation::Relu), ..layer },
                Fused { activation: Some(Activation::Gelu), ..layer },
                Fused { activation: Some(Activation::GeluTanh), ..layer },
                Fused { activation: Some(Activation::ClampedSwiglu), residual: Some(g), ..all },
            ];
            for (key, fused) in forms.into_iter().enumerate() {
                let run = runner.prepare(key, 40, &[stored[0].store()], |b| {
                    let y = |weight| b.output(b.ops.linear(weight, x, fused));
                    (y(&plain), y(&packed))
                });
                let computed = run.unwrap().compute().unwrap();
                let (plain, packed) = computed.slots();
                assert_eq!(computed.f32(plain), computed.f32(packed), "form {key}, {n_rows} rows");
            }
        }
    }
}
