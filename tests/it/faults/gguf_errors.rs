//! One test per way in which a file can be wrong: each gets one message that names file, field, expected and found.

use std::path::Path;

use crate::common::raw::Raw;
use curtail::gguf::{Error, File, Header, Metadata, Value};

fn message(raw: Raw) -> String {
    Header::parse(Path::new("m.gguf"), &raw.0).expect_err("the bytes are wrong").to_string()
}

const F32: u32 = 0;
const Q4_0: u32 = 2;

#[test]
fn no_gguf_file() {
    assert_eq!(
        message(Raw::of(b"PK\x03\x04")),
        "magic: expected `GGUF`, found `PK\\x03\\x04` in `m.gguf`\nhint: this is no GGUF file"
    );
    assert_eq!(
        message(Raw::default()),
        "magic: expected 4 bytes at byte 0, found 0 before the end of the file in `m.gguf`"
    );
}

#[test]
fn unsupported_versions() {
    assert_eq!(message(Raw::versioned(1, 0, 0)), "version: expected 2 or 3, found 1 in `m.gguf`");
    assert_eq!(message(Raw::versioned(4, 0, 0)), "version: expected 2 or 3, found 4 in `m.gguf`");
}

#[test]
fn big_endian_is_named() {
    assert_eq!(
        message(Raw::versioned(3u32.swap_bytes(), 0, 0)),
        "byte order: expected little endian, found a big-endian file in `m.gguf`\n\
         hint: convert the model again for a little-endian machine"
    );
}

#[test]
fn counts_that_the_file_cannot_hold() {
    assert_eq!(
        message(Raw::header(u64::MAX, 0)),
        "tensor count: expected at most 0, as many as the rest of the file can hold, \
         found 18446744073709551615 in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(0, 1 << 40).bytes(&[0; 30])),
        "metadata count: expected at most 2, as many as the rest of the file can hold, found 1099511627776 in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(0, 1).key("a", 9).u32(8).u64(1 << 61).bytes(&[0; 17])),
        "length of `a`: expected at most 2, as many as the rest of the file can hold, \
         found 2305843009213693952 in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(0, 1).key("a", 9).u32(10).u64(1 << 61)),
        "length of `a`: expected at most 0, as many as the rest of the file can hold, \
         found 2305843009213693952 in `m.gguf`"
    );
}

#[test]
fn truncated_fields() {
    assert_eq!(
        message(Raw::header(0, 1).key("general.name", 8).u64(100).bytes(b"short")),
        "`general.name`: expected 100 bytes at byte 56, found 5 before the end of the file in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(0, 1).key("k", 10).bytes(&[0; 7])),
        "`k`: expected 8 bytes at byte 37, found 7 before the end of the file in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(1, 0).str("output.weight").u32(2).u64(1).bytes(&[0; 2])),
        "shape of tensor `output.weight`: expected 8 bytes at byte 57, found 2 before the end of the file in `m.gguf`"
    );
}

#[test]
fn keys_and_names() {
    let twice = Raw::header(0, 2).pair_u32("k", 1).pair_u32("k", 2);
    assert_eq!(message(twice), "metadata key `k`: expected it once, found it twice in `m.gguf`");
    let empty = Raw::header(0, 1).pair_u32("", 1);
    assert_eq!(message(empty.bytes(&[0])), "metadata key: expected 1 to 65535 bytes, found 0 bytes: `` in `m.gguf`");
    let twice = Raw::header(2, 0).tensor("t", &[8], F32, 0).tensor("t", &[8], F32, 32).data(32, 64);
    assert_eq!(message(twice), "tensor `t`: expected it once, found it twice in `m.gguf`");
    let long = "n".repeat(64);
    assert_eq!(
        message(Raw::header(1, 0).tensor(&long, &[8], F32, 0).data(32, 32)),
        format!("tensor name: expected 1 to 63 bytes, found 64 bytes: `{long}` in `m.gguf`")
    );
}

/// llama-quantize itself cuts texts in the middle of a character.
#[test]
fn texts_that_are_not_utf8_are_mended_and_told() {
    let raw = Raw::header(0, 1).key("a", 9).u32(8).u64(2).str("ok").u64(3).bytes(b"a\xff\xff");
    let metadata = Header::parse(Path::new("m.gguf"), &raw.0).expect("usable").metadata;
    assert_eq!(metadata.strings("a").unwrap().unwrap(), ["ok", "a\u{FFFD}\u{FFFD}"]);
    let told = "element 1 of `a` is not UTF-8 from byte 1 on; `\u{FFFD}` stands there";
    assert_eq!(metadata.take_remarks(), [told]);
    assert_eq!(metadata.take_remarks(), Vec::<String>::new(), "once");
    let raw = Raw::header(1, 1).u64(2).bytes(b"k\xff").u32(4).u32(1);
    let raw = raw.u64(2).bytes(b"\xc3t").u32(0).u32(F32).u64(0).data(32, 32);
    let header = Header::parse(Path::new("m.gguf"), &raw.0).expect("usable");
    assert_eq!((header.metadata.u32("k?").unwrap(), header.tensors[0].name.as_str()), (Some(1), "?t"));
    assert_eq!(header.metadata.take_remarks().len(), 2);
}

#[test]
fn value_types_and_bools() {
    assert_eq!(
        message(Raw::header(0, 1).key("k", 13).u32(0)),
        "type of `k`: expected a value type from 0 to 12, found 13 in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(0, 1).key("k", 9).u32(99).u64(0)),
        "type of elements of `k`: expected a value type from 0 to 12, found 99 in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(0, 1).key("k", 7).bytes(&[2])),
        "`k`: expected a bool of 0 or 1, found 2 in `m.gguf`"
    );
}

#[test]
fn arrays_within_arrays_are_bounded() {
    let nested = |depth: usize| {
        let arrays = (1..depth).fold(Raw::header(0, 1).key("k", 9), |raw, _| raw.u32(9).u64(1));
        arrays.u32(0).u64(1).bytes(&[7])
    };
    assert!(Header::parse(Path::new("m.gguf"), &nested(8).0).is_ok());
    let message = message(nested(9));
    assert!(
        message.ends_with("of `k`: expected at most 8 arrays within each other, found more in `m.gguf`"),
        "{message}"
    );
}

#[test]
fn alignment_must_be_a_power_of_two() {
    for bad in [0, 33, 1 << 21, 1 << 31] {
        assert_eq!(
            message(Raw::header(0, 1).pair_u32("general.alignment", bad)),
            format!("`general.alignment`: expected a power of two up to 1048576, found {bad} in `m.gguf`")
        );
    }
    assert!(Header::parse(Path::new("m.gguf"), &Raw::header(0, 1).pair_u32("general.alignment", 1 << 20).0).is_ok());
    assert_eq!(
        message(Raw::header(0, 1).key("general.alignment", 8).str("32")),
        "`general.alignment`: expected an integer from 0 to 4294967295, found a string in `m.gguf`"
    );
}

#[test]
fn tensor_types() {
    let message = message(Raw::header(1, 0).tensor("t", &[32], 31, 0).data(32, 64));
    assert!(message.starts_with("type of tensor `t`: expected one of 0 f32, 1 f16, 2 q4_0,"), "{message}");
    assert!(message.ends_with("41 q1_0, 42 q2_0, found 31 in `m.gguf`"), "{message}");
}

#[test]
fn tensor_shapes() {
    assert_eq!(
        message(Raw::header(1, 0).tensor("t", &[1; 5], F32, 0).data(32, 64)),
        "dimensions of tensor `t`: expected at most 4, found 5 in `m.gguf`"
    );
    assert_eq!(
        message(Raw::header(1, 0).tensor("t", &[48, 2], Q4_0, 0).data(32, 64)),
        "shape of tensor `t`: expected rows of a multiple of 32 elements for q4_0, found 48 in `m.gguf`"
    );
    for dims in [[1 << 33, 1 << 33], [0, u64::MAX]] {
        assert_eq!(
            message(Raw::header(1, 0).tensor("t", &dims, F32, 0).data(32, 64)),
            format!("shape of tensor `t`: expected a size that fits in memory, found {dims:?} of f32 in `m.gguf`")
        );
    }
}

#[test]
fn tensor_places() {
    assert_eq!(
        message(Raw::header(1, 0).tensor("t", &[8], F32, 4).data(32, 64)),
        "offset of tensor `t`: expected a multiple of 32, found 4 in `m.gguf`"
    );
    let beyond = |offset: u64| Raw::header(1, 0).tensor("t", &[9], F32, offset).data(32, 64);
    assert_eq!(
        message(beyond(32)),
        "data of tensor `t`: expected 36 bytes at data offset 32, found the end of the file at byte 128 in `m.gguf`\n\
         hint: the file may be truncated: copy or download it again"
    );
    assert!(message(beyond(u64::MAX - 31)).contains("expected 36 bytes at data offset 18446744073709551584"));
    let overlap = Raw::header(2, 0).tensor("b", &[8], F32, 32).tensor("a", &[9], F32, 0).data(32, 96);
    assert_eq!(
        message(overlap),
        "data of tensor `b`: expected a start at byte 132 or later, behind tensor `a`, found byte 128 in `m.gguf`"
    );
}

#[test]
fn typed_getters_name_key_and_file() {
    let raw = Raw::header(0, 2).key("big", 11).u64(1 << 40).key("name", 8).str("x");
    let header = Header::parse(Path::new("m.gguf"), &raw.0).unwrap();
    let text = |e: Error| e.to_string();
    assert_eq!(
        header.metadata.u32("big").map_err(text),
        Err("`big`: expected an integer from 0 to 4294967295, found i64 1099511627776 in `m.gguf`".into())
    );
    assert_eq!(
        header.metadata.need_strings("name").map_err(text),
        Err("`name`: expected an array of strings, found a string in `m.gguf`".into())
    );
    assert_eq!(
        header.metadata.need_u32("none").map_err(text),
        Err("`none`: expected an integer from 0 to 4294967295, found no such key in `m.gguf`".into())
    );
}

#[test]
fn numbers_of_other_types_are_what_they_say_and_told() {
    let raw =
        Raw::header(0, 4).pair_u32("flag", 1).pair_u32("base", 10000).pair_u32("two", 2).key("nan", 6).u32(0x7fc0_0000);
    let metadata = Header::parse(Path::new("m.gguf"), &raw.0).unwrap().metadata;
    assert_eq!((metadata.bool("flag").unwrap(), metadata.f32("base").unwrap()), (Some(true), Some(10000.0)));
    let text = |e: Error| e.to_string();
    assert_eq!(metadata.bool("two").map_err(text), Err("`two`: expected a bool, found u32 2 in `m.gguf`".into()));
    assert!(metadata.bool("nan").is_err() && metadata.u32("nan").is_err());
    let told = ["`flag` is stored as u32 1, taken as bool", "`base` is stored as u32 10000, taken as f32"];
    assert_eq!(metadata.take_remarks(), told);
}

#[test]
fn metadata_made_in_memory_names_no_file() {
    let mut metadata = Metadata::new();
    metadata.insert("a", vec![1.0f32, 2.0]);
    assert_eq!(metadata.str("a").unwrap_err().to_string(), "`a`: expected a string, found an array of 2 f32");
    assert_eq!(metadata.get("a"), Some(&Value::from(vec![1.0f32, 2.0])));
}

#[test]
fn paths_that_are_no_model_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.gguf");
    let open = |path: &Path| File::open(path).map(|_| ()).unwrap_err().to_string();
    assert!(open(&missing).starts_with(&format!("cannot open `{}`: ", missing.display())));
    assert_eq!(
        open(dir.path()),
        format!("file: expected a regular file, found a directory in `{}`", dir.path().display())
    );
}

/// Metadata alone may not make the reader allocate what a sparse file pretends to hold.
#[cfg(unix)]
#[test]
fn sparse_files_do_not_pay() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.gguf");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&Raw::header(0, 1).key("k", 9).u32(0).u64(1 << 39).0, 0).unwrap();
    let message = File::open(&path).map(|_| ()).unwrap_err().to_string();
    assert!(message.starts_with("length of `k`: expected at most 268435"), "{message}");
}
