//! What the writer writes, the reader reads: seeded random files, and the writer's promise to leave nothing partial.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use curtail::dtype::DType;
use curtail::gguf::{Array, Error, File, Metadata, Value, Writer};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn random_files_come_back_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..200 {
        let path = dir.path().join("f.gguf");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let metadata = random_metadata(&mut rng);
        let (writer, data) = random_tensors(&mut rng, metadata.clone());
        let mut parts = data.iter();
        writer.write::<Error>(&path, |_| Ok(Cow::Borrowed(parts.next().unwrap()))).unwrap();
        assert_same(&File::open(&path).unwrap(), &metadata, &writer, &data, seed);
    }
}

fn assert_same(file: &File, metadata: &Metadata, writer: &Writer, data: &[Vec<u8>], seed: u64) {
    assert!(file.metadata().iter().eq(metadata.iter()), "seed {seed}");
    assert_eq!(file.tensors().len(), writer.tensors().len(), "seed {seed}");
    for ((found, wrote), bytes) in file.tensors().iter().zip(writer.tensors()).zip(data) {
        assert_eq!((&found.name, found.dims(), found.dtype), (&wrote.name, wrote.dims(), wrote.dtype), "seed {seed}");
        assert_eq!(file.data(found), bytes, "seed {seed}, {}", found.name);
        assert!(bytes.is_empty() || (file.data(found).as_ptr() as usize).is_multiple_of(file.alignment().min(4096)));
    }
}

fn random_metadata(rng: &mut ChaCha8Rng) -> Metadata {
    let mut metadata = Metadata::new();
    if rng.random() {
        metadata.insert("general.alignment", 1u32 << rng.random_range(0..9));
    }
    for i in 0..rng.random_range(0..20) {
        let value = random_value(rng);
        metadata.insert(format!("key.{i}.{}", random_text(rng)), value);
    }
    metadata
}

fn random_tensors(rng: &mut ChaCha8Rng, metadata: Metadata) -> (Writer, Vec<Vec<u8>>) {
    let mut writer = Writer::new(metadata);
    for i in 0..rng.random_range(0..8) {
        let dtype = DType::ALL[rng.random_range(0..DType::ALL.len())];
        let mut dims: Vec<usize> = (0..rng.random_range(0..5)).map(|_| rng.random_range(0..4)).collect();
        match dims.first_mut() {
            Some(first) => *first *= dtype.block_len(),
            None if dtype.is_quantized() => continue,
            None => {}
        }
        writer.tensor(&format!("blk.{i}.weight"), &dims, dtype).unwrap();
    }
    let mut random_bytes = |n| {
        let mut bytes = vec![0; n];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    let data = writer.tensors().iter().map(|t| random_bytes(t.bytes)).collect();
    (writer, data)
}

fn random_value(rng: &mut ChaCha8Rng) -> Value {
    match rng.random_range(0..13) {
        0 => rng.random::<u8>().into(),
        1 => rng.random::<i8>().into(),
        2 => rng.random::<u16>().into(),
        3 => rng.random::<i16>().into(),
        4 => rng.random::<u32>().into(),
        5 => rng.random::<i32>().into(),
        6 => rng.random::<f32>().into(),
        7 => rng.random::<bool>().into(),
        8 => random_text(rng).into(),
        9 => random_array(rng, 1).into(),
        10 => rng.random::<u64>().into(),
        11 => rng.random::<i64>().into(),
        _ => rng.random::<f64>().into(),
    }
}

fn random_array(rng: &mut ChaCha8Rng, depth: usize) -> Array {
    let n = rng.random_range(0..5);
    match rng.random_range(0..13) {
        0 => Array::U8((0..n).map(|_| rng.random()).collect()),
        1 => Array::I8((0..n).map(|_| rng.random()).collect()),
        2 => Array::U16((0..n).map(|_| rng.random()).collect()),
        3 => Array::I16((0..n).map(|_| rng.random()).collect()),
        4 => Array::U32((0..n).map(|_| rng.random()).collect()),
        5 => Array::I32((0..n).map(|_| rng.random()).collect()),
        6 => Array::F32((0..n).map(|_| rng.random()).collect()),
        7 => Array::Bool((0..n).map(|_| rng.random()).collect()),
        9 if depth < 8 => Array::Array((0..n).map(|_| random_array(rng, depth + 1)).collect()),
        10 => Array::U64((0..n).map(|_| rng.random()).collect()),
        11 => Array::I64((0..n).map(|_| rng.random()).collect()),
        12 => Array::F64((0..n).map(|_| rng.random()).collect()),
        _ => Array::String((0..n).map(|_| random_text(rng)).collect()),
    }
}

fn random_text(rng: &mut ChaCha8Rng) -> String {
    (0..rng.random_range(0..12)).map(|_| rng.random::<char>()).collect()
}

fn one_tensor() -> Writer {
    let mut writer = Writer::new(Metadata::new());
    writer.tensor("a", &[4], DType::F32).unwrap();
    writer
}

fn files_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, "old").unwrap();
    let failed = one_tensor().write::<anyhow::Error>(&path, |_| anyhow::bail!("no data"));
    assert_eq!(failed.unwrap_err().to_string(), "no data");
    let short = one_tensor().write::<Error>(&path, |_| Ok(vec![0; 15].into()));
    assert_eq!(
        short.unwrap_err().to_string(),
        format!("data of tensor `a`: expected 16 bytes, found 15 in `{}`", path.display())
    );
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(files_in(dir.path()), ["m.gguf"]);
    one_tensor().write::<Error>(&path, |_| Ok(vec![0; 16].into())).unwrap();
    assert_eq!(files_in(dir.path()), ["m.gguf"]);
    assert_eq!(File::open(&path).unwrap().tensors().len(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let message = one_tensor().write::<Error>(Path::new("none/m.gguf"), |_| Ok(vec![0; 16].into())).unwrap_err();
    assert!(message.to_string().starts_with("cannot write `none/m.gguf`: "), "{message}");
}

#[test]
fn the_writer_refuses_what_the_reader_refuses() {
    let mut writer = one_tensor();
    let mut message = |name: &str, dims: &[usize], dtype| writer.tensor(name, dims, dtype).unwrap_err().to_string();
    assert_eq!(message("a", &[4], DType::F32), "tensor `a`: expected it once, found it twice");
    assert_eq!(message("", &[4], DType::F32), "tensor name: expected 1 to 63 bytes, found 0 bytes: ``");
    assert_eq!(
        message("b", &[4], DType::Q8_0),
        "shape of tensor `b`: expected rows of a multiple of 32 elements for q8_0, found 4"
    );
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", 3u32);
    let written = Writer::new(metadata).write::<Error>(Path::new("m.gguf"), |_| unreachable!());
    assert_eq!(
        written.unwrap_err().to_string(),
        "`general.alignment`: expected a power of two up to 1048576, found 3 in `m.gguf`"
    );
}
