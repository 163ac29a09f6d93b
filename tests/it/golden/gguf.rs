//! Files made by the Python package `gguf` (tests/makers/make_gguf_golden.py) read as that package reads them.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use curtail::gguf::{Array, Error, File, Value, Writer};
use serde_json::Value as Json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

fn expected(name: &str) -> Json {
    let all: Json = serde_json::from_slice(&fs::read(golden("expected.json")).unwrap()).unwrap();
    all[name].clone()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The value as the script prints it: the name of the (element) type and the content.
fn to_json(value: &Value) -> Json {
    let (kind, content) = match value {
        Value::U8(v) => ("uint8", Json::from(*v)),
        Value::I8(v) => ("int8", Json::from(*v)),
        Value::U16(v) => ("uint16", Json::from(*v)),
        Value::I16(v) => ("int16", Json::from(*v)),
        Value::U32(v) => ("uint32", Json::from(*v)),
        Value::I32(v) => ("int32", Json::from(*v)),
        Value::U64(v) => ("uint64", Json::from(*v)),
        Value::I64(v) => ("int64", Json::from(*v)),
        Value::F32(v) => ("float32", Json::from(*v)),
        Value::F64(v) => ("float64", Json::from(*v)),
        Value::Bool(v) => ("bool", Json::from(*v)),
        Value::String(v) => ("string", Json::from(v.as_str())),
        Value::Array(a) => return array_to_json(a),
    };
    Json::from(vec![Json::from(kind), content])
}

fn array_to_json(array: &Array) -> Json {
    let elements: Vec<Json> = (0..array.len()).map(|i| to_json(&array.get(i).unwrap())).collect();
    let content: Vec<Json> = elements.iter().map(|e| e[1].clone()).collect();
    Json::from(vec![elements[0][0].clone(), Json::from(content)])
}

fn assert_tensors_equal(file: &File, expected: &[Json]) {
    assert_eq!(file.tensors().len(), expected.len());
    for (t, e) in file.tensors().iter().zip(expected) {
        assert_eq!(t.name, e["name"]);
        assert_eq!(t.dtype.id(), e["type"], "{}", t.name);
        assert_eq!(Json::from(t.dims()), e["shape"], "{}", t.name);
        assert_eq!(hex(file.data(t)), e["data"], "{}", t.name);
        assert_eq!(file.tensor(&t.name), Some(t));
    }
}

#[test]
fn every_type_reads_as_the_python_package_reads_it() {
    let file = File::open(&golden("types.gguf")).unwrap();
    let expected = expected("types.gguf");
    assert_eq!(file.version(), expected["version"]);
    assert_eq!(file.alignment(), 64);
    let found: Vec<_> = file.metadata().iter().map(|(k, v)| (k.to_owned(), to_json(v))).collect();
    let wanted: Vec<_> = expected["metadata"].as_object().unwrap().clone().into_iter().collect();
    assert_eq!(found, wanted);
    assert_tensors_equal(&file, expected["tensors"].as_array().unwrap());
}

#[test]
fn our_writer_gives_the_same_bytes_as_the_python_package() {
    let file = File::open(&golden("types.gguf")).unwrap();
    let mut writer = Writer::new(file.metadata().clone());
    for t in file.tensors() {
        writer.tensor(&t.name, t.dims(), t.dtype).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    writer.write::<Error>(&copy, |t| Ok(Cow::Borrowed(file.data(file.tensor(&t.name).unwrap())))).unwrap();
    assert!(fs::read(&copy).unwrap() == fs::read(golden("types.gguf")).unwrap());
}

#[test]
fn big_endian_files_are_named() {
    let message = File::open(&golden("big-endian.gguf")).unwrap_err().to_string();
    assert!(message.starts_with("byte order: expected little endian, found a big-endian file in `"), "{message}");
}

const PARTS: [&str; 3] = ["split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"];

#[test]
fn split_files_are_one() {
    let file = File::open(&golden(PARTS[0])).unwrap();
    let expected: Vec<Json> = PARTS.iter().flat_map(|p| expected(p)["tensors"].as_array().unwrap().clone()).collect();
    assert_tensors_equal(&file, &expected);
    assert_eq!(file.n_parts(), 3);
    assert_eq!(file.file_bytes(), PARTS.iter().map(|p| fs::metadata(golden(p)).unwrap().len()).sum::<u64>());
    assert_eq!(file.metadata().need_u32("llama.block_count").unwrap(), 1);
}

/// Copies the split file into a folder of its own, where a test may spoil it.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Copy {
        let dir = tempfile::tempdir().unwrap();
        for part in PARTS {
            fs::copy(golden(part), dir.path().join(part)).unwrap();
        }
        Copy(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Opens `name`; the message with this folder's path taken out.
    fn message(&self, name: &str) -> String {
        let message = File::open(&self.path(name)).unwrap_err().to_string();
        message.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_later_part_points_to_the_first() {
    assert_eq!(
        Copy::new().message(PARTS[1]),
        "`split.no`: expected 0, the first part, found 1 in `split-00002-of-00003.gguf`\n\
         hint: open `split-00001-of-00003.gguf` instead"
    );
}

#[test]
fn a_missing_part_is_named() {
    let copy = Copy::new();
    fs::remove_file(copy.path(PARTS[2])).unwrap();
    assert_eq!(
        copy.message(PARTS[0]),
        "part 3 of 3: expected a file beside the first part, found none in `split-00003-of-00003.gguf`"
    );
}

#[test]
fn a_renamed_first_part_is_refused() {
    let copy = Copy::new();
    copy.rename(PARTS[0], "model.gguf");
    assert_eq!(
        copy.message("model.gguf"),
        "file name: expected `NAME-00001-of-00003.gguf`, the first of 3 parts, found `model.gguf` in `model.gguf`"
    );
}

#[test]
fn swapped_parts_are_refused() {
    let copy = Copy::new();
    copy.rename(PARTS[1], "x");
    copy.rename(PARTS[2], PARTS[1]);
    copy.rename("x", PARTS[2]);
    assert_eq!(copy.message(PARTS[0]), "`split.no`: expected 1, found 2 in `split-00002-of-00003.gguf`");
}

#[test]
fn parts_of_another_set_are_refused() {
    let copy = Copy::new();
    fs::copy(golden("types.gguf"), copy.path(PARTS[1])).unwrap();
    assert_eq!(copy.message(PARTS[0]), "`split.no`: expected 1, found no such key in `split-00002-of-00003.gguf`");
}

#[test]
fn the_tensor_count_of_the_set_is_checked() {
    let copy = Copy::new();
    rewrite(&copy.path(PARTS[2]), |name| name != "t4");
    assert_eq!(
        copy.message(PARTS[0]),
        "`split.tensors.count`: expected 5 tensors, found 4 in the 3 parts in `split-00001-of-00003.gguf`"
    );
}

/// Writes a file again with only some of its tensors.
fn rewrite(path: &Path, keep: impl Fn(&str) -> bool) {
    let header = curtail::gguf::Header::parse(path, &fs::read(path).unwrap()).unwrap();
    let mut writer = Writer::new(header.metadata);
    for t in header.tensors.iter().filter(|t| keep(&t.name)) {
        writer.tensor(&t.name, t.dims(), t.dtype).unwrap();
    }
    writer.write::<Error>(path, |t| Ok(vec![0; t.bytes].into())).unwrap();
}
