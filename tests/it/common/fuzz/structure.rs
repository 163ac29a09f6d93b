//! Mutations that keep the form of a file and change what it says: JSON by its values, safetensors by its directory, a pickle by
//! its instructions. They get past the parsers that a changed byte stops at.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// A JSON text with a few values changed.
pub(crate) fn json(text: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(text).expect("the seed is JSON");
    change(&mut value, rng);
    value.to_string().into_bytes()
}

/// A safetensors file with a few values of its directory changed; the data stays.
pub(crate) fn safetensors(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = json(&bytes[8..8 + length], rng);
    let mut data = bytes[8 + length..].to_vec();
    if rng.random_ratio(1, 4) {
        let at = rng.random_range(0..data.len() - 1);
        // The exponent of NaN and infinity in every type of two bytes, and in most places of those of four.
        data[at..at + 2].copy_from_slice(&[0x80, 0x7F]);
    }
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A pickle with a few instructions dropped, repeated (once, or hundreds of times), exchanged or put in.
pub(crate) fn pickle(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut parts = instructions(bytes);
    for _ in 0..rng.random_range(1..6) {
        let from = rng.random_range(0..parts.len());
        let to = parts.len().min(from + rng.random_range(1..12));
        let at = rng.random_range(0..=parts.len());
        match rng.random_range(0..5) {
            0 if to - from < parts.len() => drop(parts.drain(from..to)),
            1 => {
                let times = if rng.random_ratio(1, 2) { 1 } else { rng.random_range(1..500) };
                let run = parts[from..to].concat().repeat(times);
                parts.insert(at, run);
            }
            2 => parts.swap(from, at.min(from.max(1) - 1)),
            _ => parts.insert(at, instruction(rng)),
        }
    }
    parts.concat()
}

fn change(value: &mut Value, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..5) {
        let place = place(value, rng);
        *place = changed(place, rng);
    }
}

/// A value at random: whether to go deeper is decided again at each level.
fn place<'v>(value: &'v mut Value, rng: &mut ChaCha8Rng) -> &'v mut Value {
    let n = match &value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if n == 0 || rng.random_ratio(1, 8) {
        return value;
    }
    let i = rng.random_range(0..n);
    let inner = match value {
        Value::Array(items) => &mut items[i],
        Value::Object(map) => map.values_mut().nth(i).expect("one of them"),
        _ => unreachable!("it has parts"),
    };
    place(inner, rng)
}

fn changed(old: &Value, rng: &mut ChaCha8Rng) -> Value {
    const NUMBERS: [&str; 14] = [
        "0",
        "-1",
        "1",
        "-0.0",
        "1e308",
        "-1e308",
        "1e-320",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "2147483647",
        "65536",
        "0.5",
    ];
    const TEXTS: [&str; 8] = ["", " ", "\u{2581}", "<0x0A>", "../x", "default", "\u{1F600} \u{0}", "BF16"];
    match (rng.random_range(0..9), old) {
        (0, _) => Value::Null,
        (1, _) => Value::Bool(rng.random()),
        (2, _) => Value::from(TEXTS[rng.random_range(0..TEXTS.len())]),
        (3, _) => Value::from("x".repeat(rng.random_range(0..10_000))),
        (4, _) => (0..rng.random_range(0..2000)).map(|_| json!([])).collect(),
        (5, _) => (0..rng.random_range(0..200)).fold(old.clone(), |inner, _| json!([inner])),
        (6, Value::Array(items)) => without_or_twice(items, rng),
        (6, Value::Object(map)) => renamed(map, rng),
        _ => serde_json::from_str(NUMBERS[rng.random_range(0..NUMBERS.len())]).expect("a number"),
    }
}

fn without_or_twice(items: &[Value], rng: &mut ChaCha8Rng) -> Value {
    let mut items = items.to_vec();
    if !items.is_empty() {
        let i = rng.random_range(0..items.len());
        match rng.random() {
            true => drop(items.remove(i)),
            false => items.insert(i, items[i].clone()),
        }
    }
    items.into()
}

/// One value under another key, or under none.
fn renamed(map: &Map<String, Value>, rng: &mut ChaCha8Rng) -> Value {
    let mut map = map.clone();
    if !map.is_empty() {
        let (i, j) = (rng.random_range(0..map.len()), rng.random_range(0..map.len()));
        let key = map.keys().nth(i).expect("one of them").clone();
        let other = map.keys().nth(j).expect("one of them").clone();
        let value = map.remove(&key).unwrap_or_default();
        if rng.random() {
            map.insert(other, value);
        }
    }
    map.into()
}

/// The instructions of a pickle with what they take.
fn instructions(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let line = |from: usize| bytes[from..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| from + n + 1);
        let counted =
            |n: usize| at + 1 + n + bytes[at + 1..at + 1 + n].iter().rev().fold(0, |all, &b| all << 8 | usize::from(b));
        let end = match bytes[at] {
            0x80 | b'K' | b'q' | b'h' => at + 2,
            b'M' => at + 3,
            b'J' | b'r' | b'j' => at + 5,
            b'G' | 0x95 => at + 9,
            b'X' => counted(4),
            0x8a | 0x8c => counted(1),
            b'c' => line(line(at + 1)),
            _ => at + 1,
        };
        let end = end.min(bytes.len());
        parts.push(bytes[at..end].to_vec());
        at = end;
    }
    parts
}

/// One instruction that a state dict may have.
fn instruction(rng: &mut ChaCha8Rng) -> Vec<u8> {
    const PLAIN: &[u8] = b"(.)0NQRabdehlstu]}\x85\x86\x87\x88\x89\x93\x94";
    match rng.random_range(0..6) {
        0 => vec![b'h', rng.random_range(0..40)],
        1 => vec![b'q', rng.random_range(0..40)],
        2 => vec![b'K', rng.random()],
        3 => [&b"J"[..], &rng.random::<i32>().to_le_bytes()].concat(),
        4 => [&b"X"[..], &rng.random_range(0..3u32).to_le_bytes(), b"ab"].concat(),
        _ => vec![PLAIN[rng.random_range(0..PLAIN.len())]],
    }
}
