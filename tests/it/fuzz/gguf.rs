//! Mutated files through the GGUF reader: an answer or an error, never a panic, and no allocation that the file
//! does not pay for.

use std::path::Path;

use crate::common::fuzz;
use crate::common::raw::Raw;
use crate::{Turn, limit_memory};
use curtail::gguf::{Error, Header};

/// The inputs are below 2 KiB; all of them in flight, and the outcomes, need far less.
const MAX_ALLOCATED: usize = 64 << 20;

#[test]
fn mutated_files_never_panic() {
    let _turn = Turn::take();
    limit_memory(MAX_ALLOCATED);
    let outcomes = fuzz::run("gguf", 200_000, &seeds(), |bytes, _| outcome(bytes));
    let inputs: u64 = outcomes.values().sum();
    let accepted = outcomes.get("accepted").copied().unwrap_or(0);
    assert!(accepted > inputs / 20, "the mutations must leave files that are read to the end: {accepted} of {inputs}");
    assert!(outcomes.len() > 15 || inputs < 100_000, "the mutations must reach most checks: {outcomes:#?}");
}

fn outcome(bytes: &[u8]) -> String {
    match Header::parse(Path::new("f"), bytes) {
        Ok(header) => {
            assert_holds(&header, bytes.len());
            "accepted".into()
        }
        Err(e @ Error::Invalid { .. }) => class(&e),
        Err(e) => panic!("bytes in memory cannot fail with: {e}"),
    }
}

/// What everybody behind the reader relies on.
fn assert_holds(header: &Header, file_bytes: usize) {
    assert!(header.alignment.is_power_of_two());
    let total: usize = header.tensors.iter().map(|t| t.bytes).sum();
    assert!(total <= file_bytes, "tensors do not overlap, so together they fit in the file");
    for t in &header.tensors {
        let blocks = t.elements() / t.dtype.block_len();
        assert_eq!(blocks * t.dtype.block_bytes(), t.bytes);
        assert!((1..64).contains(&t.name.len()));
    }
}

/// The message without what differs from input to input.
fn class(e: &Error) -> String {
    let Error::Invalid { path, field, expected, found, .. } = e else { unreachable!("checked by the caller") };
    assert!(path == Path::new("f") && !field.is_empty() && !expected.is_empty() && !found.is_empty(), "{e}");
    let quoted = expected.split('`').step_by(2).collect::<Vec<_>>().join("NAME");
    let words = quoted.split_whitespace().filter(|w| !w.contains(|c: char| c.is_ascii_digit()));
    words.take(6).collect::<Vec<_>>().join(" ")
}

fn seeds() -> Vec<Raw> {
    vec![scalars(), arrays(), nested(), tensors(), aligned()]
}

fn scalars() -> Raw {
    let raw = Raw::versioned(2, 0, 13).key("u8", 0).bytes(&[1]).key("i8", 1).bytes(&[2]).key("u16", 2).u16(3);
    let raw = raw.key("i16", 3).u16(4).key("u32", 4).u32(5).key("i32", 5).u32(6).key("f32", 6).u32(0x3f80_0000);
    let raw = raw.key("bool", 7).bytes(&[1]).key("string", 8).str("text \u{e4}").key("u64", 10).u64(7);
    raw.key("i64", 11).u64(8).key("f64", 12).u64(9).key("array", 9).u32(4).u64(1).u32(1)
}

fn arrays() -> Raw {
    let sized = |raw: Raw, (value_type, bytes): (u32, usize)| {
        raw.key(&format!("a{value_type}"), 9).u32(value_type).u64(2).bytes(&vec![1; 2 * bytes])
    };
    let types = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)];
    let raw = types.into_iter().fold(Raw::header(0, 12), sized);
    raw.key("a8", 9).u32(8).u64(3).str("one").str("").str("drei")
}

fn nested() -> Raw {
    let deep = |raw: Raw, depth: usize| (1..depth).fold(raw, |raw, _| raw.u32(9).u64(1)).u32(8).u64(1).str("x");
    let raw = deep(Raw::header(0, 2).key("n", 9), 8);
    let raw = raw.key("m", 9).u32(9).u64(3);
    deep(raw.u32(0).u64(2).bytes(&[1, 2]).u32(9).u64(0), 3)
}

fn tensors() -> Raw {
    let raw = Raw::header(4, 1).key("general.architecture", 8).str("llama");
    let raw = raw.tensor("a", &[8, 2], 0, 0).tensor("b", &[32, 2], 2, 64).tensor("c", &[256], 12, 128);
    raw.tensor("d", &[], 24, 288).data(32, 289)
}

fn aligned() -> Raw {
    let raw = Raw::header(2, 1).pair_u32("general.alignment", 64);
    raw.tensor("blk.0.attn_q.weight", &[4, 2, 2, 2], 1, 64).tensor("z", &[0], 0, 0).data(64, 128)
}
