//! Vocabularies that are wrong in a part that is not needed, or in one that is.

use std::time::Duration;

use curtail::gguf::{Array, Value};

use super::OnDisk;
use crate::common::curtail;
use crate::common::tiny::{N_EMBD, Tiny, TinyTensor};
use crate::common::watched::{Ended, run, run_within};

fn tokens(tiny: &Tiny) -> Vec<String> {
    tiny.metadata.strings("tokenizer.ggml.tokens").expect("a list").expect("a list").to_vec()
}

/// The ids of a text.
fn ids(model: &OnDisk, text: &str) -> Vec<u32> {
    let ended = run(&mut curtail(&["tokenize", "--json", "-m", model.name(), "-p", text]), b"").with(0, &[]);
    serde_json::from_str(&ended.stdout).expect("a list")
}

fn runs(model: &OnDisk, said: &[&str]) -> Ended {
    let ended = model.run(&[]).with(0, &[&["odd.gguf"], said].concat());
    said.iter().for_each(|text| assert_eq!(ended.stderr.matches(text).count(), 1, "{text}: {}", ended.stderr));
    ended
}

#[test]
fn ids_that_no_token_has_are_left_out() {
    for key in ["bos", "eos", "eot", "eom", "unknown"] {
        for id in [Value::U32(262), Value::U32(32000), Value::I32(-7), Value::U64(u64::MAX)] {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let id_text = id.as_integer().expect("an integer").to_string();
            let model = OnDisk::new(&Tiny::new().with(&key, id));
            runs(&model, &[&format!("`{key}`: {id_text} is none of the 262 tokens")]);
        }
    }
}

#[test]
fn of_equal_tokens_the_last_stands_for_the_text() {
    let tiny = Tiny::new();
    let mut twice = tokens(&tiny);
    twice[257] = "the".to_owned(); // was "he"
    let model = OnDisk::new(&tiny.with("tokenizer.ggml.tokens", twice));
    runs(&model, &["\"the\" is token 257 and token 258"]);
    assert_eq!(ids(&model, "the"), [258]);
}

#[test]
fn merges_of_what_is_no_token_merge_on_and_are_spelled_out() {
    // "at" is no token, but "hat" is; "ca" and "cat" are none.
    let tiny = Tiny::new();
    let mut known = tokens(&tiny);
    known[257] = "hat".to_owned(); // was "he", so that "h e" and "th e" name something unknown
    let merges = ["t h", "a t", "h at", "c a", "ca t", "h e", "th e", "nothing", "x y z", "t h"];
    let tiny =
        tiny.with("tokenizer.ggml.tokens", known).with("tokenizer.ggml.merges", merges.map(str::to_owned).to_vec());
    let model = OnDisk::new(&tiny);
    let ended = runs(&model, &["\"a t\" at 1 names texts that are no tokens", "\"nothing\" at 7 is no pair"]);
    assert!(ended.stderr.contains("so do"), "{}", ended.stderr);
    let id = |text: &str| tokens(&tiny).iter().position(|token| token == text).expect("a token") as u32;
    assert_eq!(ids(&model, "hat"), [id("hat")]);
    assert_eq!(ids(&model, "cat"), [id("c"), id("a"), id("t")], "spelled out, no byte lost");
    assert_eq!(ids(&model, "the"), [id("the")], "a merge with a token that is there");
}

/// Text is cut where llama-quantize cuts it: in the middle of a character.
#[test]
fn text_that_is_not_utf8_is_no_reason_to_refuse_a_model() {
    let model = OnDisk::new(&Tiny::new().with("general.description", "AAAA").with("BBBB.key", 1u32));
    let replace = |from: &[u8], to: &[u8]| {
        let mut bytes = std::fs::read(&model.path).expect("read");
        let at = bytes.windows(from.len()).position(|part| part == from).expect("there");
        bytes[at..at + to.len()].copy_from_slice(to);
        std::fs::write(&model.path, bytes).expect("written");
    };
    replace(b"AAAA", b"abc\xc3");
    replace(b"BBBB", b"b\xff\xfeb");
    runs(&model, &["`general.description` is not UTF-8 from byte 3 on", "metadata key"]);
    for command in ["inspect", "tokenize"] {
        let arguments: &[&str] = if command == "inspect" { &[] } else { &["-p", "the"] };
        run(&mut curtail(&[&[command, "-m", model.name()], arguments].concat()), b"").with(0, &["is not UTF-8"]);
    }
    let out = model.beside("out.gguf");
    let out = out.to_str().expect("UTF-8");
    run(&mut curtail(&["quantize", model.name(), out, "Q8_0"]), b"").with(0, &["is not UTF-8"]);
    let shown = run(&mut curtail(&["inspect", out]), b"").with(0, &[]);
    assert!(shown.stdout.contains("abc\u{FFFD}"), "{}", shown.stdout);
}

#[test]
fn names_of_tensors_that_are_not_needed_may_be_anything() {
    let mut tiny = Tiny::new();
    tiny.tensors.push(TinyTensor::f32("CCCC", &[4], &[0.0; 4]));
    let model = OnDisk::new(&tiny);
    let mut bytes = std::fs::read(&model.path).expect("read");
    let at = bytes.windows(4).position(|part| part == b"CCCC").expect("there");
    bytes[at..at + 4].copy_from_slice(b"\xff\x00\x1b\xfe");
    std::fs::write(&model.path, bytes).expect("written");
    let ended = runs(&model, &["name of tensor", "is not UTF-8"]);
    assert!(!ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
}

/// A contradiction that matters: a text would run until the token comes.
#[test]
fn a_token_without_a_row_is_told_when_the_file_is_loaded() {
    let mut tiny = Tiny::new();
    for name in ["token_embd.weight", "output.weight"] {
        let tensor = tiny.tensor(name);
        tensor.bytes.truncate(261 * N_EMBD * 4);
        tensor.dims[1] = 261;
    }
    let model = OnDisk::new(&tiny);
    let said = ["odd.gguf", "token_embd.weight", "expected 262 rows", "tokenizer.ggml.tokens", "found 261"];
    model.run(&[]).with(1, &said);
    let chat = ["chat", "-m", model.name(), "-t", "1"];
    run(&mut curtail(&chat), b"a\n").with(1, &said);
    // More rows than tokens do no harm: files pad them.
    let mut padded = Tiny::new();
    for name in ["token_embd.weight", "output.weight"] {
        let tensor = padded.tensor(name);
        tensor.bytes.resize(272 * N_EMBD * 4, 0);
        tensor.dims[1] = 272;
    }
    OnDisk::new(&padded).run(&[]).with(0, &[]);
}

/// The work of loading grows with the file, not with the square of anything in it.
#[test]
fn long_tokens_and_many_merges_load_in_no_time() {
    let quickly = |tiny: &Tiny| {
        let model = OnDisk::new(tiny);
        let mut command = curtail(&["tokenize", "-m", model.name(), "-p", "the hat aaaaaaaa"]);
        run_within(&mut command, b"", Duration::from_secs(8)).with(0, &[])
    };
    let with_last = |text: String, kind: i32| {
        let tiny = Tiny::new();
        let mut tokens = tokens(&tiny);
        tokens[259] = text;
        let mut kinds = vec![1; 262];
        kinds[259] = kind;
        tiny.with("tokenizer.ggml.tokens", tokens).with("tokenizer.ggml.token_type", kinds)
    };
    let mixed = |n: usize| (0..n).map(|i| char::from(b'a' + ((i * i * 7 + i / 3) % 26) as u8)).collect::<String>();
    for kind in [3, 4, 1] {
        for text in ["a".repeat(160_000), "ab".repeat(80_000), mixed(160_000)] {
            quickly(&with_last(text, kind));
        }
    }
    let ended = quickly(&with_last("a".repeat(8 << 20), 3));
    assert!(ended.stderr.contains("too long to be looked for"), "{}", ended.stderr);
    let tiny = Tiny::new();
    let many: Vec<String> = (0..300_000).map(|i| format!("x{i} y{}", i / 2)).collect();
    quickly(&tiny.with("tokenizer.ggml.merges", Value::Array(Array::String(many))));
    let tiny = Tiny::new();
    let same: Vec<String> = std::iter::repeat_n("same".to_owned(), 300_000).collect();
    let mut all = tokens(&tiny);
    all.extend(same);
    let ended = quickly(&tiny.with("tokenizer.ggml.tokens", all).without("tokenizer.ggml.token_type"));
    assert!(ended.stderr.lines().count() < 20, "{}", ended.stderr);
}
