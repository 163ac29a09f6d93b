//! ggml's functions of vectors at the level in use, for nodes of our own: what they compute comes out as in ggml's
//! nodes, to the bit.

use super::isa::functions;

/// `y = silu(gate) * up`.
#[track_caller]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == y.len() && up.len() == y.len(), "swiglu: {}, {}, {}", gate.len(), up.len(), y.len());
    // SAFETY: all hold n numbers.
    unsafe { (functions().ggml_vec_swiglu_f32)(y.len() as i32, y.as_mut_ptr(), gate.as_ptr(), up.as_ptr()) }
}

/// `x = exp(x - max)`; gives the sum.
pub(crate) fn soft_max(x: &mut [f32], max: f32) -> f64 {
    let at = x.as_mut_ptr();
    // SAFETY: source and destination may be the same: each number is read before it is written.
    unsafe { (functions().ggml_vec_soft_max_f32)(x.len() as i32, at, at, max) }
}

/// `y = x - mean`; gives the mean of the squares of `y`.
#[track_caller]
pub(crate) fn less_mean(x: &[f32], mean: f32, y: &mut [f32]) -> f64 {
    assert_eq!(x.len(), y.len(), "less_mean");
    // SAFETY: both hold n numbers.
    unsafe { (functions().ggml_vec_cvar_f32)(x.len() as i32, y.as_mut_ptr(), x.as_ptr(), mean) }
}
