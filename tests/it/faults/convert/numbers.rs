//! Numbers that are none, and numbers that a type does not hold: each says tensor, place and value, and nothing is written.

use super::made::{Made, N};

const TYPES: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "auto"];

#[test]
fn nan_and_infinity_are_refused_in_every_type() {
    let shown = [(f32::NAN, "NaN"), (f32::INFINITY, "infinity"), (f32::NEG_INFINITY, "-infinity")];
    for (i, dtype) in ["F64", "F32", "F16", "BF16"].into_iter().enumerate() {
        let (value, word) = shown[i % 3];
        let mut made = Made { dtype, ..Made::new() };
        made.tensor("model.layers.0.mlp.up_proj.weight")[3 * N + 17] = value;
        let folder = made.write();
        for outtype in TYPES {
            let said = ["tensor `model.layers.0.mlp.up_proj.weight`: expected finite numbers, found ", "at [3, 17] in"];
            folder.refused(&["--outtype", outtype], &[&said[..], &[&format!("found {word} at")]].concat());
        }
    }
}

#[test]
fn the_place_is_the_checkpoints_where_rows_move_and_in_vectors() {
    let mut made = Made::new();
    made.tensor("model.layers.0.self_attn.q_proj.weight")[N] = 70000.0;
    let folder = made.write();
    folder.refused(&["--outtype", "f16"], &["`model.layers.0.self_attn.q_proj.weight`", "found 70000 at [1, 0] in"]);
    folder.refused(&["--outtype", "auto"], &["numbers up to 65504, the largest of f16", "hint: ", "--outtype bf16"]);
    for outtype in ["f32", "bf16", "q8_0"] {
        folder.convert(&["--outtype", outtype]).with(0, &[]);
    }
    let mut made = Made { dtype: "F16", ..Made::new() };
    made.tensor("model.norm.weight")[5] = f32::NAN;
    made.write().refused(&[], &["tensor `model.norm.weight`: expected finite numbers, found NaN at [5] in"]);
}

#[test]
fn each_type_refuses_what_it_cannot_hold_and_takes_the_rest() {
    let cases = [
        ("F32", "f16", 65520.0, "found 65520 at [0, 0]"),
        ("BF16", "f16", 1e38, "the largest of f16"),
        ("F32", "q8_0", 1e8, "numbers up to 8319008, the largest of q8_0, found 100000000 at [0, 0]"),
        ("F32", "bf16", f32::MAX, "the largest of bf16"),
    ];
    for (dtype, outtype, value, said) in cases {
        let mut made = Made { dtype, ..Made::new() };
        made.tensor("lm_head.weight")[0] = value;
        made.write().refused(&["--outtype", outtype], &["tensor `lm_head.weight`", said]);
    }
    // 65519 rounds to the largest that there is.
    let mut made = Made::new();
    made.tensor("lm_head.weight")[0] = 65519.0;
    made.write().convert(&["--outtype", "f16"]).with(0, &[]);
}
