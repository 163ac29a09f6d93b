//! Tensors of types and shapes that their place in the model cannot have.

use curtail::dtype::DType;

use super::{OnDisk, load_and_step};
use crate::common::curtail;
use crate::common::tiny::{N_EMBD, Tiny, TinyTensor};
use crate::common::watched::run;

/// Rows of a whole number of blocks of every type.
const WIDE: usize = 256;

fn wide() -> Tiny {
    let mut tiny = Tiny::sized(WIDE, WIDE);
    let (bias, divisors) = ([0.0; WIDE], [1.0; WIDE / 8]);
    tiny.tensors.push(TinyTensor::f32("blk.0.attn_q.bias", &[WIDE], &bias));
    tiny.tensors.push(TinyTensor::f32("rope_freqs.weight", &[WIDE / 8], &divisors));
    tiny
}

/// Whether ggml has numbers in such blocks.
fn has_numbers(dtype: DType) -> bool {
    use DType::{F64, I8, I16, I32, I64, Q8_1, Q8_K};
    !matches!(dtype, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64)
}

fn may_have(tensor: &str, dtype: DType) -> bool {
    let is_vector = tensor.contains("norm") || tensor.ends_with("bias") || tensor == "rope_freqs.weight";
    if is_vector { matches!(dtype, DType::F32 | DType::F16 | DType::BF16) } else { has_numbers(dtype) }
}

#[test]
fn a_type_that_a_tensor_cannot_have_is_an_error_with_its_name() {
    const TENSORS: [&str; 9] = [
        "token_embd.weight",
        "output.weight",
        "blk.0.attn_q.weight",
        "blk.1.attn_output.weight",
        "blk.0.ffn_up.weight",
        "blk.1.ffn_down.weight",
        "blk.0.attn_norm.weight",
        "output_norm.weight",
        "blk.0.attn_q.bias",
    ];
    for name in TENSORS {
        for &dtype in DType::ALL {
            let mut tiny = wide();
            let tensor = tiny.tensor(name);
            let n: usize = tensor.dims.iter().product();
            (tensor.dtype, tensor.bytes) = (dtype, vec![0; dtype.row_bytes(n).expect("whole blocks")]);
            eprintln!("{name} as {dtype}"); // what was tried last, should ggml end the process
            let model = OnDisk::new(&tiny);
            match load_and_step(&model.path) {
                Ok(_) => assert!(may_have(name, dtype), "{name} as {dtype} is taken"),
                Err(error) => {
                    let message = format!("{error:#}");
                    assert!(!may_have(name, dtype), "{name} as {dtype}: {message}");
                    let says = [name, dtype.name(), model.name(), "expected"].iter().all(|text| message.contains(text));
                    assert!(says, "{name} as {dtype}: {message}");
                }
            }
        }
    }
}

#[test]
fn a_dimension_of_zero_is_an_error_with_the_tensors_name() {
    for (name, dims) in [
        ("token_embd.weight", [N_EMBD, 0]),
        ("token_embd.weight", [0, 262]),
        ("output.weight", [N_EMBD, 0]),
        ("blk.0.attn_q.weight", [0, N_EMBD]),
        ("blk.1.ffn_down.weight", [96, 0]),
    ] {
        let mut tiny = Tiny::new();
        *tiny.tensor(name) = TinyTensor::f32(name, &dims, &[]);
        let model = OnDisk::new(&tiny);
        let message = format!("{:#}", load_and_step(&model.path).expect_err("refused"));
        assert!(message.contains(name) && message.contains(model.name()), "{message}");
        let out = model.beside("out.gguf");
        let arguments = ["quantize", model.name(), out.to_str().expect("UTF-8"), "Q8_0"];
        run(&mut curtail(&arguments), b"").with(0, &[]);
    }
    let mut tied = Tiny::new();
    tied.tensors.retain(|tensor| tensor.name != "output.weight");
    *tied.tensor("token_embd.weight") = TinyTensor::f32("token_embd.weight", &[N_EMBD, 0], &[]);
    OnDisk::new(&tied).run(&[]).with(1, &["token_embd.weight", "odd.gguf"]);
}

/// What nobody asks for does no harm, whatever it is.
#[test]
fn tensors_that_are_not_needed_are_left_alone() {
    let mut tiny = Tiny::new();
    tiny.tensors.push(TinyTensor::f32("none.weight", &[0, 1 << 60], &[]));
    tiny.tensors.push(TinyTensor::f32("blk.7.extra.weight", &[2, 2], &[f32::NAN; 4]));
    tiny.tensors.push(TinyTensor { dtype: DType::F64, ..TinyTensor::f32("other", &[1, 4], &[0.0; 8]) });
    let model = OnDisk::new(&tiny);
    model.run(&[]).with(0, &[]);
    tiny.tensors.retain(|tensor| tensor.name != "blk.7.extra.weight");
    let model = OnDisk::new(&tiny);
    let out = model.beside("out.gguf");
    let out = out.to_str().expect("UTF-8");
    run(&mut curtail(&["quantize", model.name(), out, "Q8_0"]), b"").with(0, &[]);
    run(&mut curtail(&["inspect", out]), b"").with(0, &[]);
}

#[test]
fn rotary_divisors_must_divide() {
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut tiny = wide();
        *tiny.tensor("rope_freqs.weight") = TinyTensor::f32("rope_freqs.weight", &[WIDE / 8], &[bad; WIDE / 8]);
        OnDisk::new(&tiny).run(&[]).with(1, &["rope_freqs.weight", "odd.gguf", "expected", "found"]);
    }
}
