//! Values of a known structure, changed node by node: what stays is a JSON value, so that checks behind the parser are
//! reached.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// The value with up to three of its nodes replaced, removed or doubled.
pub(crate) fn changed(value: &Value, rng: &mut ChaCha8Rng) -> Value {
    let mut value = value.clone();
    for _ in 0..rng.random_range(0..4) {
        let n = count(&value);
        let at = rng.random_range(0..n);
        change(&mut value, &mut { at }, rng);
    }
    value
}

fn count(value: &Value) -> usize {
    let below = match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    };
    1 + below
}

/// Changes the node that is `at` in depth-first order.
fn change(value: &mut Value, at: &mut usize, rng: &mut ChaCha8Rng) -> bool {
    if *at == 0 {
        *value = instead(value, rng);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| change(value, at, rng)),
        Value::Object(map) => map.values_mut().any(|value| change(value, at, rng)),
        _ => false,
    }
}

fn instead(value: &Value, rng: &mut ChaCha8Rng) -> Value {
    match (rng.random_range(0..4), value) {
        (0, Value::Array(list)) if !list.is_empty() => {
            let mut list = list.clone();
            let i = rng.random_range(0..list.len());
            match rng.random_range(0..3) {
                0 => drop(list.remove(i)),
                1 => list.insert(i, list[i].clone()),
                _ => list.extend(list.clone()),
            }
            Value::Array(list)
        }
        (0, Value::Object(map)) if !map.is_empty() => {
            let mut map: Map<String, Value> = map.clone();
            let i = rng.random_range(0..map.len());
            let name = map.keys().nth(i).cloned().unwrap_or_default();
            let removed = map.shift_remove(&name);
            if rng.random_ratio(1, 2) {
                map.insert(text(rng), removed.unwrap_or_default());
            }
            Value::Object(map)
        }
        (1, _) => number(rng),
        (2, _) => Value::from(text(rng)),
        _ => other(rng),
    }
}

fn number(rng: &mut ChaCha8Rng) -> Value {
    match rng.random_range(0..6) {
        0 => Value::from(rng.random_range(0..5u64)),
        1 => Value::from(1u64 << rng.random_range(0..64)),
        2 => Value::from((1u64 << rng.random_range(0..64)) - 1),
        3 => Value::from(-rng.random_range(1..300i64)),
        4 => json!(1e300),
        _ => json!(0.5),
    }
}

fn text(rng: &mut ChaCha8Rng) -> String {
    const TEXTS: [&str; 16] = [
        "",
        "x",
        "../x",
        "/x",
        "a/b",
        "user",
        "assistant",
        "tokens",
        "x-00001-of-00002.gguf",
        "m.gguf",
        "\u{1b}[31m",
        "\0",
        "label",
        "{{ text }}",
        "{% for",
        "0123456789abcdef0123456789abcdef01234567",
    ];
    match rng.random_range(0..18) {
        16 => "x".repeat(rng.random_range(0..5000)),
        17 => "é\n".repeat(rng.random_range(0..50)),
        i => TEXTS[i].to_owned(),
    }
}

fn other(rng: &mut ChaCha8Rng) -> Value {
    match rng.random_range(0..7) {
        0 => Value::Null,
        1 => Value::Bool(true),
        2 => json!([]),
        3 => json!({}),
        4 => (0..rng.random_range(0..150)).fold(json!(1), |value, _| json!([value])),
        5 => (0..rng.random_range(0..150)).fold(json!(1), |value, _| json!({ "a": value })),
        _ => Value::Array(vec![json!(0); rng.random_range(0..2000)]),
    }
}
