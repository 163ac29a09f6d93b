//! NaN and infinity: each says what and where, and fails.

use std::fs;

use curtail::dtype::DType;

use super::OnDisk;
use crate::common::curtail;
use crate::common::tiny::{N_EMBD, N_FF, Tiny, TinyTensor};
use crate::common::watched::{Ended, run};

/// A number in one place of a tensor.
fn with_number(name: &str, at: usize, x: f32) -> Tiny {
    let mut tiny = Tiny::new();
    tiny.tensor(name).bytes[at * 4..at * 4 + 4].copy_from_slice(&x.to_le_bytes());
    tiny
}

fn text(model: &OnDisk) -> String {
    let path = model.beside("text.txt");
    fs::write(&path, "the hat then thawed there ".repeat(12)).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

fn command(model: &OnDisk, arguments: &[&str]) -> Ended {
    run(&mut curtail(&[&[arguments[0], "-m", model.name()], &arguments[1..], &["-t", "1"]].concat()), b"")
}

#[test]
fn a_weight_that_is_no_number_is_named_by_whoever_reads_the_model() {
    for (name, x) in [("blk.1.attn_v.weight", f32::NAN), ("output.weight", f32::INFINITY)] {
        let model = OnDisk::new(&with_number(name, 5 * N_EMBD + 3, x));
        let said = ["the logits after token", name, "row 5", "odd.gguf"];
        let ended = model.run(&[]).with(1, &said);
        assert_eq!(ended.stdout.trim(), "", "an answer of nothing");
        let (text, out) = (text(&model), model.beside("imatrix.gguf"));
        command(&model, &["perplexity", "-f", &text, "-c", "16"]).with(1, &["chunk 0", name]);
        command(&model, &["imatrix", "-f", &text, "-c", "16", "-o", out.to_str().expect("UTF-8")]).with(1, &[name]);
        assert!(!out.exists(), "half an importance matrix");
        let chat = run(&mut curtail(&["chat", "-m", model.name(), "-n", "2", "-t", "1"]), b"hi\n").with(1, &[name]);
        assert_eq!(chat.stdout.trim(), "", "an answer of nothing");
    }
}

#[test]
fn stored_distributions_that_are_none_are_refused() {
    let model = OnDisk::new(&Tiny::new());
    let (text, base) = (text(&model), model.beside("base.bin"));
    let base_name = base.to_str().expect("UTF-8");
    let flags = ["perplexity", "-f", &text, "-c", "16", "--chunks", "2", "--kl-divergence-base", base_name];
    command(&model, &flags).with(0, &[]);
    let compare = [&flags[..], &["--kl-divergence"]].concat();
    command(&model, &compare).with(0, &[]);
    let whole = fs::read(&base).expect("read");
    let first_row = 20 + 4 * 2 * 16;
    for (at, x) in [(0, f32::NAN), (0, f32::INFINITY), (0, -1.0), (4, f32::NAN), (4, f32::NEG_INFINITY), (4, 50.0)] {
        let mut bytes = whole.clone();
        bytes[first_row + at..first_row + at + 4].copy_from_slice(&x.to_le_bytes());
        fs::write(&base, bytes).expect("written");
        command(&model, &compare).with(1, &["chunk 0", "base.bin", "distribution 0", "expected logarithms"]);
    }
}

#[test]
fn a_norm_that_is_no_number_is_refused_when_it_is_loaded() {
    for name in ["blk.0.attn_norm.weight", "output_norm.weight"] {
        let model = OnDisk::new(&with_number(name, 7, f32::NAN));
        model.run(&[]).with(1, &[name, "expected finite numbers", "NaN at 7", "odd.gguf"]);
    }
}

#[test]
fn numbers_that_overflow_on_the_way_are_told_with_their_layer() {
    for il in [0, 1] {
        let name = format!("blk.{il}.ffn_down.weight");
        let mut tiny = Tiny::new();
        *tiny.tensor(&name) = TinyTensor::f32(&name, &[N_FF, N_EMBD], &[3e38; N_FF * N_EMBD]);
        let ended = OnDisk::new(&tiny).run(&[]).with(1, &["the logits after token"]);
        assert!(ended.stderr.contains(&format!("in layer {il}")), "{}", ended.stderr);
    }
}

#[test]
fn quantize_names_the_tensor_and_the_row() {
    let quantize = |tiny: &Tiny, arguments: &[&str]| {
        let model = OnDisk::new(tiny);
        let out = model.beside("out.gguf");
        let (flags, target) = arguments.split_at(arguments.len() - 1);
        let all = [&["quantize"], flags, &[model.name(), out.to_str().expect("UTF-8")], target].concat();
        let ended = run(&mut curtail(&all), b"");
        assert!(!out.exists(), "half a model");
        ended
    };
    let (name, at) = ("blk.0.ffn_up.weight", 9 * N_EMBD + 1);
    for x in [f32::NAN, f32::NEG_INFINITY] {
        for target in ["Q8_0", "F16", "Q4_0"] {
            quantize(&with_number(name, at, x), &[target]).with(1, &[name, "row 9", "NaN or infinity"]);
        }
        quantize(&with_number(name, at, x), &["F32"]).with(1, &[name, "finite numbers"]);
        quantize(&with_number("output_norm.weight", 1, x), &["Q8_0"]).with(1, &["output_norm.weight"]);
    }
    // A block whose scale is no number.
    let mut tiny = Tiny::new();
    let blocks = N_FF * N_EMBD / 32;
    let tensor = tiny.tensor(name);
    (tensor.dtype, tensor.bytes) = (DType::Q8_0, vec![0; blocks * 34]);
    tensor.bytes[34 * 6 + 1] = 0x7e;
    quantize(&tiny, &["--allow-requantize", "Q4_0"]).with(1, &[name, "row 3", "NaN or infinity"]);
    quantize(&tiny, &["--allow-requantize", "Q8_0"]).with(1, &[name, "finite numbers"]);
}
