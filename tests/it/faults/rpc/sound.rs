//! What sound clients get: every operation of this program's graphs, with the numbers that it gives here.

use std::sync::Arc;

use curtail::dtype::DType;
use curtail::ggml::{Activation, Builder, Device, Ops, Pairs, Rope, Runner, Slot, StoreBuilder, Stored};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Served;

const N: usize = 64;
const T: usize = 3;
const ROWS: usize = 8;
const HEAD: usize = 16;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Bytes of a matrix of a type, as finite numbers.
fn matrix(dtype: DType, rows: usize, seed: u64) -> Vec<u8> {
    let values = noise(N * rows, seed);
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        _ => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let n_blocks = N * rows / dtype.block_len();
            let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
            let block = |_| {
                let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| rng.random()).collect();
                block[..2].copy_from_slice(&half(0.1));
                if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                    block[2..4].copy_from_slice(&half(-0.3));
                }
                block
            };
            (0..n_blocks).flat_map(block).collect()
        }
    }
}

const TYPES: [DType; 8] =
    [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1];

/// What is there before the graph: matrices of every type, a norm's weight, and caches of two types.
fn stored(device: &Arc<Device>) -> Vec<Stored> {
    let mut builder = StoreBuilder::new(32);
    builder.place_on(device);
    let mut stored = Vec::new();
    for (i, dtype) in TYPES.into_iter().enumerate() {
        stored.push(builder.add_plain(dtype.name(), dtype, &[N, N], &matrix(dtype, N, i as u64)).expect("added"));
    }
    stored.push(builder.add_plain("weight", DType::F32, &[N], &matrix(DType::F32, 1, 50)).expect("added"));
    for dtype in [DType::F16, DType::Q8_0] {
        stored.push(builder.add_plain("cache", dtype, &[N, ROWS], &matrix(dtype, ROWS, 60)).expect("added"));
    }
    let factors = [0, 0, 128, 63].repeat(HEAD / 2);
    stored.push(builder.add_plain("factors", DType::F32, &[HEAD / 2], &factors).expect("added"));
    stored
}

const INPUTS: usize = 4;

/// Every operation once, as models here put them together.
fn build<'g>(g: &Builder<'g>, stored: &'g [Stored]) -> [Option<Slot>; 40] {
    let mut slots = Vec::new();
    let (ids, s) = g.input("ids", DType::I32, &[T]);
    slots.push(s);
    let (places, s) = g.input("places", DType::I64, &[T]);
    slots.push(s);
    let (mask, s) = g.input("mask", DType::F16, &[ROWS, T]);
    slots.push(s);
    let (x, s) = g.input("x", DType::F32, &[N, T]);
    slots.push(s);
    assert_eq!(slots.len(), INPUTS);
    let ops: Ops<'g> = g.ops;
    let [weight, cache, quantized, factors] = [8, 9, 10, 11].map(|i| stored[i].t());
    let mut out = |tensor| slots.push(g.output(tensor));
    for matrix in &stored[..TYPES.len()] {
        out(ops.mul_mat(matrix.t(), x));
        out(ops.get_rows(matrix.t(), ids));
    }
    out(ops.row_by_row().mul_mat(stored[0].t(), x)); // joined rows
    let normed = ops.add(ops.mul(ops.rms_norm(x, 1e-5), weight), x);
    out(normed);
    out(ops.layer_norm(normed, 1e-5));
    out(ops.activation(Activation::Swiglu, normed));
    out(ops.gated(Activation::Swiglu, normed, x));
    out(ops.activation(Activation::Relu, normed));
    out(ops.activation(Activation::Gelu, normed));
    let rope = Rope {
        pairs: Pairs::Adjacent,
        n_dims: HEAD,
        freq_base: 1e4,
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        n_ctx_orig: 64,
    };
    let heads = |t| ops.view(t, [HEAD, N / HEAD, T], [HEAD * 4, N * 4], 0);
    let q = ops.rope(heads(normed), ids, None, &rope);
    out(ops.rope(q, ids, Some(factors), &Rope { ext_factor: 1.0, freq_scale: 0.5, ..rope }));
    let q = ops.swap_1_2(q);
    for (cache, head_bytes, row_bytes) in [(cache, HEAD * 2, N * 2), (quantized, 0, N / 32 * 34)] {
        g.effect(ops.set_rows(cache, x, places));
        if head_bytes > 0 {
            let keys = ops.view(cache, [HEAD, ROWS, N / HEAD], [row_bytes, head_bytes], 0);
            out(ops.flash_attn([q, keys, keys, mask], 0.25, Some(2.0), None));
            out(ops.softcap(ops.mul_mat_f32(keys, q), 2.0));
            out(ops.soft_max(ops.mul_mat_f32(keys, q), mask, 0.25, None));
        }
        out(ops.get_rows(cache, ids));
    }
    out(ops.probabilities(x));
    out(ops.reshape(ops.contiguous(q), [N, T]));
    let half = ops.tensor(DType::F16, &[N, T]);
    out(ops.mul_mat(stored[0].t(), ops.copy(ops.copy(x, half), ops.tensor(DType::F32, &[N, T]))));
    let mut all = [None; 40];
    all.iter_mut().zip(slots).for_each(|(place, slot)| *place = Some(slot));
    all
}

fn results(device: &Arc<Device>) -> Vec<Vec<f32>> {
    let stored = stored(device);
    let mut runner: Runner<u8, [Option<Slot>; 40]> = Runner::new(device.clone());
    let mut all = Vec::new();
    for round in 0..2 {
        let mut run = runner.prepare(0, 400, &[stored[0].store()], |g| build(g, &stored)).expect("it is prepared");
        let [ids, places, mask, x] = [0, 1, 2, 3].map(|i| run.slots()[i].expect("an input"));
        run.set_i32(ids, &[1 + round, 0, 5]);
        run.set_i64(places, &[2, 0, 7]);
        run.set_f16(mask, &[half::f16::ZERO; ROWS * T]);
        run.set_f32(x, &noise(N * T, 100 + round as u64));
        let computed = run.compute().expect("it runs");
        let outputs = computed.slots().into_iter().flatten().skip(INPUTS);
        all.extend(outputs.map(|slot| computed.read(slot).expect("it is read").into_owned()));
    }
    all
}

#[test]
fn every_operation_gives_on_a_worker_what_it_gives_here() {
    let served = Served::start(&[]);
    let remote = Device::remote(&served.address, 0).expect("a worker");
    let (expected, found) = (results(&Device::cpu(1).expect("a CPU")), results(&remote[0]));
    assert_eq!(expected.len(), found.len());
    for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert!(expected.iter().all(|x| x.is_finite()), "output {i} is no test");
        assert_eq!(expected, found, "output {i}");
    }
}
