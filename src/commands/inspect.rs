//! Owns `inspect`: what a model file holds, as a table or as JSON. Refuses to load the weights.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::gguf::{Array, File, Value};

/// Array elements that the table shows.
const SHOWN: usize = 6;

/// Writes metadata, tensors and totals of the file; JSON holds every array in full.
pub(super) fn inspect(path: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = File::open(path)?;
    if json { Ok(writeln!(out, "{}", as_json(&file))?) } else { table(&file, out) }
}

fn table(file: &File, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}: GGUF version {}, {} bytes", file.path().display(), file.version(), file.file_bytes())?;
    writeln!(out, "\nmetadata")?;
    let width = file.metadata().iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in file.metadata().iter() {
        writeln!(out, "  {key:width$}  {}", shortened(value))?;
    }
    writeln!(out, "\ntensors")?;
    let width = file.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in file.tensors() {
        let shape = t.dims().iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        writeln!(out, "  {:width$}  {:>8}  {shape:>16}  {:>12}", t.name, t.dtype.name(), t.bytes)?;
    }
    writeln!(out, "\ntotals")?;
    for (name, (n, elements, bytes)) in totals(file) {
        writeln!(out, "  {name:>8}  {n:>5} tensors  {elements:>14} elements  {bytes:>14} bytes")?;
    }
    let (elements, bytes) = sums(file);
    writeln!(out, "  {elements} parameters, {:.2} bits per weight", 8.0 * bytes as f64 / elements.max(1) as f64)?;
    Ok(())
}

fn as_json(file: &File) -> Json {
    let metadata: serde_json::Map<String, Json> =
        file.metadata().iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect();
    let tensors: Vec<Json> = file
        .tensors()
        .iter()
        .map(|t| json!({ "name": t.name, "type": t.dtype.name(), "shape": t.dims(), "bytes": t.bytes }))
        .collect();
    let (parameters, bytes) = sums(file);
    json!({
        "path": file.path(),
        "version": file.version(),
        "file_bytes": file.file_bytes(),
        "parameters": parameters,
        "bits_per_weight": 8.0 * bytes as f64 / parameters.max(1) as f64,
        "metadata": metadata,
        "tensors": tensors,
    })
}

/// Tensors, elements and bytes by type.
fn totals(file: &File) -> BTreeMap<&'static str, (usize, usize, usize)> {
    let mut totals = BTreeMap::new();
    for t in file.tensors() {
        let (n, elements, bytes) = totals.entry(t.dtype.name()).or_insert((0, 0, 0));
        *n += 1;
        *elements += t.elements();
        *bytes += t.bytes;
    }
    totals
}

fn sums(file: &File) -> (usize, usize) {
    totals(file).values().fold((0, 0), |sum, (_, elements, bytes)| (sum.0 + elements, sum.1 + bytes))
}

fn shortened(value: &Value) -> String {
    match value {
        Value::Array(array) => {
            let shown: Vec<String> =
                (0..array.len().min(SHOWN)).filter_map(|i| array.get(i)).map(|v| shortened(&v)).collect();
            let more = if array.len() > SHOWN { format!(", ... {} in all", array.len()) } else { String::new() };
            format!("[{}{more}]", shown.join(", "))
        }
        Value::String(text) if text.chars().count() > 100 => {
            format!("{:?}... {} bytes in all", text.chars().take(80).collect::<String>(), text.len())
        }
        other => value_json(other).to_string(),
    }
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::U8(x) => json!(x),
        Value::I8(x) => json!(x),
        Value::U16(x) => json!(x),
        Value::I16(x) => json!(x),
        Value::U32(x) => json!(x),
        Value::I32(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::Bool(x) => json!(x),
        Value::String(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::I64(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Array(array) => array_json(array),
    }
}

fn array_json(array: &Array) -> Json {
    (0..array.len()).filter_map(|i| array.get(i)).map(|v| value_json(&v)).collect()
}
