//! Owns the output head that computes the best logits only: a low-bit copy of it says which rows may be best, and those
//! are multiplied exactly. It reads half of the bytes.

use super::linear::{Sources, prepare};
use super::norm::Norm;
use super::packed::{GROUP, Packing};
use super::scratch::Scratch;
use super::weight::Weight;
use crate::dtype::DType;
use crate::ggml::{Error, Node, NodeRun, Ops, StoreBuilder, Tensor, bytes, quantize, row};

/// The type of the copy: of those with a kernel, the one with the fewest bytes.
const COPY: DType = DType::Q4_0;

impl Weight {
    /// A low-bit copy for [`Ops::shortlist`] of a matrix whose rows of blocks are `data`; `None` where it would not be
    /// faster.
    pub fn sketch(&self, dtype: DType, data: &[u8]) -> Result<Option<Weight>, Error> {
        let Some(packing) = self.packing() else { return Ok(None) };
        let shape = [packing.n_in(), packing.n_out()];
        // Of a type with fewer bits than q8_0 the copy would read as much as it saves.
        if dtype != DType::Q8_0 || Packing::of(COPY, shape).is_none() {
            return Ok(None);
        }
        let mut builder = StoreBuilder::new(1);
        let copy = quantize(COPY, dtype, data, packing.n_in());
        Ok(Some(Weight::add_to(&mut builder, "output (low-bit)", COPY, shape, &[&copy])?))
    }
}

impl<'g> Ops<'g> {
    /// The products of the rows of `weight` \[n_in, n_out\] with `x` f32 \[n_in, t\], normed first where there is a
    /// norm, that may be the largest, and -inf in place of the others: f32 \[n_out, t\]. `sketch` is the weight's
    /// low-bit copy; `keep` groups of sixteen neighbouring rows are computed, those in which a row of the copy gives
    /// the largest products.
    #[track_caller]
    pub fn shortlist(
        &self,
        weight: &'g Weight,
        sketch: &'g Weight,
        x: Tensor<'g>,
        norm: Option<Norm<Tensor<'g>>>,
        keep: usize,
    ) -> Tensor<'g> {
        let (Some(packing), Some(low_packing)) = (weight.packing(), sketch.packing()) else {
            panic!("shortlist: both matrices are packed");
        };
        let ([n_in, n_rows, 1, 1], DType::F32) = (x.shape(), x.dtype()) else { panic!("shortlist: rows of {x:?}") };
        assert!(n_in == packing.n_in() && x.strides()[0] == size_of::<f32>(), "shortlist: {packing:?} by {x:?}");
        assert_eq!((packing.n_in(), packing.n_out()), (low_packing.n_in(), low_packing.n_out()), "shortlist: a copy");
        let mut sources = Sources(vec![sketch.tensor(), x]);
        let inside = norm.map(|norm| sources.add_norm(norm, n_in));
        let peaks = Peaks { packing: low_packing, norm: inside };
        let peaks = self.node(DType::F32, [packing.n_groups(), n_rows], &sources.0, peaks);
        let rescore =
            Rescore { packing, norm: inside, peaks: sources.0.len(), keep: keep.clamp(1, packing.n_groups()) };
        // The same sources with the exact matrix in the place of the copy, so that the norm keeps its places.
        sources.0[0] = weight.tensor();
        sources.0.push(peaks);
        self.node(DType::F32, [packing.n_out(), n_rows], &sources.0, rescore)
    }
}

/// A row of activations, normed and rounded for a packing.
unsafe fn prepared<'s>(
    packing: &Packing,
    run: &NodeRun<'_>,
    i: usize,
    norm: Option<Norm<usize>>,
    scratch: &'s mut Scratch,
) -> &'s [u8] {
    // Every thread prepares the row for itself, which is quicker than to wait for another: a shortlist has few rows.
    let place = scratch.bytes(packing.activation_bytes());
    // SAFETY: the graph runs the node after its sources, whose shapes `Ops::shortlist` checked.
    unsafe { prepare(packing, row(run.source(1), i), norm.map(|norm| norm.read(run)), place) };
    place
}

/// The largest product of each group.
struct Peaks {
    packing: Packing,
    norm: Option<Norm<usize>>,
}

impl Node for Peaks {
    /// Sources: packed matrix, x, the norm's.
    fn run(&self, run: &NodeRun<'_>) {
        let dst = run.dst();
        let n_rows = dst.shape()[1];
        let mut scratch = Scratch::take();
        let mut all = Vec::new();
        // SAFETY: as in `prepared`; this thread alone writes the peaks of its groups.
        unsafe {
            for i in 0..n_rows {
                all.extend_from_slice(prepared(&self.packing, run, i, self.norm, &mut scratch));
            }
            let packed = bytes(run.source(0));
            let mut products = vec![[0.0; GROUP]; n_rows];
            // All rows by one group before the next: the copy, which is far larger than the rows, is read once.
            for group in run.share(self.packing.n_groups()) {
                let at = group * self.packing.group_bytes();
                self.packing.multiply(&packed[at..][..self.packing.group_bytes()], &all, &mut products);
                // What pads the last group gives 0, which must not look like a good product.
                let n = GROUP.min(self.packing.n_out() - group * GROUP);
                for (i, products) in products.iter().enumerate() {
                    let place = dst.data().add(i * dst.strides()[1]).cast::<f32>().add(group);
                    place.write(largest(&products[..n]));
                }
            }
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// The exact products of the groups with the largest peaks.
struct Rescore {
    packing: Packing,
    norm: Option<Norm<usize>>,
    /// Their place among the sources.
    peaks: usize,
    keep: usize,
}

impl Node for Rescore {
    /// Sources: packed matrix, x, the norm's, peaks.
    fn run(&self, run: &NodeRun<'_>) {
        let (n_out, n_groups, group_bytes) =
            (self.packing.n_out(), self.packing.n_groups(), self.packing.group_bytes());
        let (dst, mut scratch) = (run.dst(), Scratch::take());
        for i in 0..dst.shape()[1] {
            // SAFETY: as in `prepared`; this thread alone writes the products of its groups.
            unsafe {
                let peaks = row(run.source(self.peaks), i);
                // Every thread finds the same bound: to ask another would take longer.
                let mut sorted = peaks.to_vec();
                let (_, &mut least, _) = sorted.select_nth_unstable_by(n_groups - self.keep, f32::total_cmp);
                let x = prepared(&self.packing, run, i, self.norm, &mut scratch);
                let packed = bytes(run.source(0));
                let y = dst.data().add(i * dst.strides()[1]).cast::<f32>();
                // The best groups lie close together: frequent tokens have low ids.
                for group in run.alternate(n_groups) {
                    let mut products = [[f32::NEG_INFINITY; GROUP]];
                    // Equal peaks are all kept: which of them stay must not depend on the order of a sort.
                    if peaks[group] >= least {
                        self.packing.multiply(&packed[group * group_bytes..][..group_bytes], x, &mut products);
                    }
                    let n = GROUP.min(n_out - group * GROUP);
                    y.add(group * GROUP).copy_from_nonoverlapping(products[0].as_ptr(), n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::ggml::{Device, Runner, Slot};
    use crate::kernels::Fused;

    #[test]
    fn the_best_products_are_the_whole_heads() {
        const N_IN: usize = 128;
        const N_OUT: usize = 1000;
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let block = |rng: &mut ChaCha8Rng| {
            let d = half::f16::from_f32(rng.random_range(0.001..0.01)).to_le_bytes();
            let quants: [u8; 32] = rng.random();
            [&d[..], &quants].concat()
        };
        let data: Vec<u8> = (0..N_OUT * N_IN / 32).flat_map(|_| block(&mut rng)).collect();
        let floats = |n: usize, rng: &mut ChaCha8Rng| -> Vec<u8> {
            (0..n).flat_map(|_| rng.random_range(-1.0f32..1.0).to_le_bytes()).collect()
        };
        for (n_rows, is_layer) in [(1, false), (3, false), (7, false), (2, true)] {
            let mut builder = StoreBuilder::new(3);
            let weight = Weight::add_to(&mut builder, "w", DType::Q8_0, [N_IN, N_OUT], &[&data]).unwrap();
            let norm_weight = builder.add_plain("norm", DType::F32, &[N_IN], &floats(N_IN, &mut rng)).unwrap();
            let x = builder.add_plain("x", DType::F32, &[N_IN, n_rows], &floats(N_IN * n_rows, &mut rng)).unwrap();
            let Some(sketch) = weight.sketch(DType::Q8_0, &data).unwrap() else { return }; // no kernel here
            let (weight_of_norm, x, eps) = (norm_weight.t(), x.t(), 1e-5);
            let norm = match is_layer {
                false => Norm::Rms { weight: weight_of_norm, eps },
                true => Norm::Layer { weight: weight_of_norm, bias: Some(weight_of_norm), eps },
            };
            let mut runner: Runner<usize, (Slot, Slot)> = Runner::new(Device::cpu(2).unwrap());
            let run = runner.prepare(0, 20, &[weight.store(), sketch.store()], |b| {
                let whole = b.ops.linear(&weight, x, Fused { norm: Some(norm), ..Fused::default() });
                (b.output(whole), b.output(b.ops.shortlist(&weight, &sketch, x, Some(norm), 12)))
            });
            let computed = run.unwrap().compute().unwrap();
            let (whole, best) = computed.slots();
            for (whole, best) in computed.f32(whole).chunks(N_OUT).zip(computed.f32(best).chunks(N_OUT)) {
                let kept = best.iter().filter(|y| y.is_finite()).count();
                assert!((12 * GROUP - GROUP..=12 * GROUP).contains(&kept), "{kept}");
                assert!(best.iter().zip(whole).all(|(b, w)| b == w || *b == f32::NEG_INFINITY), "exact, or left out");
                let mut order: Vec<usize> = (0..N_OUT).collect();
                order.sort_by(|&a, &b| whole[b].total_cmp(&whole[a]));
                assert!(order[..4].iter().all(|&i| best[i].is_finite()), "{n_rows} rows: one of the best is missing");
            }
        }
    }
}
