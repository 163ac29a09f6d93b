//! `inspect`: what a model file holds, as a table or as JSON. Loads no weights.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::shared::columns::Align::{Left, Right};
use super::shared::columns::columns;
use super::shared::hub_model::named_model;
use super::shared::open::{find_model, tell_remarks};
use super::shared::screen;
use crate::cli::InspectArgs;
use crate::dtype::DType;
use crate::gguf::{Array, File, Metadata, TensorInfo, Value};
use crate::model::Arch;

pub(super) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.file {
        Some(path) => named_model(path)?,
        None => find_model(&args.model)?,
    };
    inspect(&path, args.json, &mut screen::stdout())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what the file at `path` holds.
///
/// The table shortens long values. The JSON is one line, one object with everything: `path`, `version`, `alignment`,
/// `n_parts`, `file_bytes`, `n_tensors`, `parameters`, `tensor_bytes`, `bits_per_weight`, `types` (totals per element
/// type), `metadata` (plain values, arrays complete; NaN and infinities are null) and `tensors` (`name`, `shape` in
/// ggml's order, `type`, `bytes`).
fn inspect(path: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = File::open(path)?;
    tell_remarks(&file);
    let mut out = BufWriter::new(out);
    if json {
        serde_json::to_writer(&mut out, &Report::new(&file)).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(table(&file).as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// The numbers over all tensors of some kind.
#[derive(Clone, Copy, Default, Serialize)]
struct Total {
    tensors: usize,
    parameters: u128,
    bytes: u128,
}

impl Total {
    fn add(&mut self, t: &TensorInfo) {
        self.tensors += 1;
        self.parameters += t.elements() as u128;
        self.bytes += t.bytes as u128;
    }

    fn bits_per_weight(&self) -> f64 {
        if self.parameters == 0 { 0.0 } else { self.bytes as f64 * 8.0 / self.parameters as f64 }
    }
}

fn total(tensors: &[TensorInfo]) -> Total {
    let mut total = Total::default();
    tensors.iter().for_each(|t| total.add(t));
    total
}

/// Totals per element type, the largest first.
fn totals_per_type(tensors: &[TensorInfo]) -> Vec<(DType, Total)> {
    let mut totals = BTreeMap::<DType, Total>::new();
    tensors.iter().for_each(|t| totals.entry(t.dtype).or_default().add(t));
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_by_key(|(_, t)| std::cmp::Reverse(t.bytes));
    totals
}

// ---- the table ----

/// Longest value shown, in characters.
const MAX_VALUE_CHARS: usize = 72;

/// Most array elements looked at; the rest would not fit anyway.
const MAX_ELEMENTS: usize = 32;

fn table(file: &File) -> String {
    let total = total(file.tensors());
    let mut text = String::new();
    let architecture = match file.metadata().get("general.architecture") {
        Some(Value::String(s)) if Arch::of(s).is_some() => s.clone(),
        Some(Value::String(s)) => {
            let named = shorten(&s.escape_debug().to_string());
            format!("{named} (not one of those that run: {})", Arch::names().join(", "))
        }
        _ => "not named".into(),
    };
    let parts = match file.n_parts() {
        1 => String::new(),
        n => format!(", {n} parts"),
    };
    let head = [
        ("file", file.path().display().to_string()),
        ("format", format!("GGUF version {}, alignment {}{parts}", file.version(), file.alignment())),
        ("architecture", architecture),
        ("size", format!("{} ({} bytes)", human_bytes(file.file_bytes().into()), file.file_bytes())),
        ("parameters", format!("{} ({})", human_count(total.parameters), total.parameters)),
        ("bits per weight", format!("{:.2}", total.bits_per_weight())),
    ];
    columns(&mut text, "", &head.map(|(name, value)| [name.to_owned(), value]), [Left, Left]);
    section(&mut text, "metadata", file.metadata().len());
    columns(&mut text, "  ", &metadata_rows(file.metadata()), [Left, Left, Left]);
    section(&mut text, "tensors", file.tensors().len());
    columns(&mut text, "  ", &tensor_rows(file.tensors()), [Left, Right, Left, Right]);
    text.push_str("\ntotals\n");
    columns(&mut text, "  ", &total_rows(file.tensors(), &total), [Left, Right, Right, Right, Right]);
    text
}

fn section(text: &mut String, name: &str, count: usize) {
    let _ = writeln!(text, "\n{name} ({count})");
}

fn metadata_rows(metadata: &Metadata) -> Vec<[String; 3]> {
    metadata.iter().map(|(key, value)| [key.escape_debug().to_string(), kind(value), shown(value)]).collect()
}

fn tensor_rows(tensors: &[TensorInfo]) -> Vec<[String; 4]> {
    let row = |t: &TensorInfo| {
        let dims: Vec<_> = t.dims().iter().map(usize::to_string).collect();
        [t.name.escape_debug().to_string(), dims.join(" x "), t.dtype.to_string(), human_bytes(t.bytes as u128)]
    };
    tensors.iter().map(row).collect()
}

fn total_rows(tensors: &[TensorInfo], all: &Total) -> Vec<[String; 5]> {
    let row = |name: &str, t: &Total| {
        let share = if all.bytes == 0 { 0.0 } else { 100.0 * t.bytes as f64 / all.bytes as f64 };
        let tensors = if t.tensors == 1 { "1 tensor".into() } else { format!("{} tensors", t.tensors) };
        [name.into(), tensors, human_count(t.parameters), human_bytes(t.bytes), format!("{share:.1} %")]
    };
    let types = totals_per_type(tensors);
    types.iter().map(|(dtype, t)| row(dtype.name(), t)).chain([row("all", all)]).collect()
}

fn kind(value: &Value) -> String {
    match value {
        Value::Array(a) => format!("{} x {}", a.len(), a.element_type()),
        v => v.value_type().to_string(),
    }
}

/// The value on one line: what a file holds must not move the cursor of a terminal.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => shorten(&s.chars().take(MAX_VALUE_CHARS + 1).map(visible).collect::<String>()),
        Value::Array(a) => {
            let elements: Vec<_> =
                (0..a.len().min(MAX_ELEMENTS)).filter_map(|i| a.get(i)).map(|v| quoted(&v)).collect();
            let rest = if a.len() > MAX_ELEMENTS { ", ..." } else { "" };
            shorten(&format!("[{}{rest}]", elements.join(", ")))
        }
        Value::F32(x) => format!("{x:?}"),
        Value::F64(x) => format!("{x:?}"),
        Value::Bool(b) => b.to_string(),
        v => v.as_integer().map_or(String::new(), |i| i.to_string()),
    }
}

fn visible(c: char) -> String {
    if matches!(c, '\'' | '"') { c.into() } else { c.escape_debug().to_string() }
}

fn quoted(value: &Value) -> String {
    match value {
        Value::String(_) => format!("\"{}\"", shown(value)),
        v => shown(v),
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_VALUE_CHARS {
        return text.to_owned();
    }
    let start: String = text.chars().take(MAX_VALUE_CHARS - 4).collect();
    format!("{start} ...")
}

fn human_bytes(n: u128) -> String {
    scaled(n, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

fn human_count(n: u128) -> String {
    scaled(n, 1000.0, ["", "K", "M", "G", "T"]).trim_end().to_owned()
}

fn scaled(n: u128, step: f64, units: [&str; 5]) -> String {
    let mut x = n as f64;
    let mut unit = 0;
    // Compared as it will be printed, so that 1023.99 KiB becomes 1.00 MiB.
    while unit + 1 < units.len() && (x * 100.0).round() >= step * 100.0 {
        x /= step;
        unit += 1;
    }
    if unit == 0 { format!("{n} {}", units[0]) } else { format!("{x:.2} {}", units[unit]) }
}

// ---- the JSON ----

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    version: u32,
    alignment: usize,
    n_parts: usize,
    file_bytes: u64,
    n_tensors: usize,
    parameters: u128,
    tensor_bytes: u128,
    bits_per_weight: f64,
    types: Vec<TypeTotal>,
    metadata: Pairs<'a>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct TypeTotal {
    r#type: &'static str,
    #[serde(flatten)]
    total: Total,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: &'a [usize],
    r#type: &'static str,
    bytes: usize,
}

impl<'a> Report<'a> {
    fn new(file: &'a File) -> Report<'a> {
        let total = total(file.tensors());
        let tensor =
            |t: &'a TensorInfo| Tensor { name: &t.name, shape: t.dims(), r#type: t.dtype.name(), bytes: t.bytes };
        Report {
            path: file.path().display().to_string(),
            version: file.version(),
            alignment: file.alignment(),
            n_parts: file.n_parts(),
            file_bytes: file.file_bytes(),
            n_tensors: total.tensors,
            parameters: total.parameters,
            tensor_bytes: total.bytes,
            bits_per_weight: total.bits_per_weight(),
            types: totals_per_type(file.tensors())
                .into_iter()
                .map(|(t, total)| TypeTotal { r#type: t.name(), total })
                .collect(),
            metadata: Pairs(file.metadata()),
            tensors: file.tensors().iter().map(tensor).collect(),
        }
    }
}

/// Metadata as an object of plain values.
struct Pairs<'a>(&'a Metadata);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0.iter() {
            map.serialize_entry(key, &Plain(value))?;
        }
        map.end()
    }
}

/// A value without its type.
struct Plain<'a>(&'a Value);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(v) => v.serialize(s),
            Value::I8(v) => v.serialize(s),
            Value::U16(v) => v.serialize(s),
            Value::I16(v) => v.serialize(s),
            Value::U32(v) => v.serialize(s),
            Value::I32(v) => v.serialize(s),
            Value::F32(v) => v.serialize(s),
            Value::Bool(v) => v.serialize(s),
            Value::String(v) => v.serialize(s),
            Value::Array(v) => Elements(v).serialize(s),
            Value::U64(v) => v.serialize(s),
            Value::I64(v) => v.serialize(s),
            Value::F64(v) => v.serialize(s),
        }
    }
}

/// An array without its type.
struct Elements<'a>(&'a Array);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Array::U8(v) => v.serialize(s),
            Array::I8(v) => v.serialize(s),
            Array::U16(v) => v.serialize(s),
            Array::I16(v) => v.serialize(s),
            Array::U32(v) => v.serialize(s),
            Array::I32(v) => v.serialize(s),
            Array::F32(v) => v.serialize(s),
            Array::Bool(v) => v.serialize(s),
            Array::String(v) => v.serialize(s),
            Array::Array(v) => {
                let mut list = s.serialize_seq(Some(v.len()))?;
                v.iter().try_for_each(|a| list.serialize_element(&Elements(a)))?;
                list.end()
            }
            Array::U64(v) => v.serialize(s),
            Array::I64(v) => v.serialize(s),
            Array::F64(v) => v.serialize(s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Error, Writer};

    /// The output for a small file; its path is replaced by `PATH`.
    fn output(json: bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "llama");
        metadata.insert("llama.rope.freq_base", 0.1f32);
        metadata.insert("text", "a\n\x1b[31m");
        metadata.insert("ids", (0..40).collect::<Vec<i32>>());
        metadata.insert("words", vec!["a\"".to_owned(), "b".to_owned()]);
        metadata.insert("nested", Array::Array(vec![Array::F64(vec![f64::NAN]), Array::Bool(vec![true])]));
        let mut writer = Writer::new(metadata);
        writer.tensor("token_embd.weight", &[64, 100], DType::Q4_0).unwrap();
        writer.tensor("output_norm.weight", &[64], DType::F32).unwrap();
        writer.write::<Error>(&path, |t| Ok(vec![0; t.bytes].into())).unwrap();
        let mut out = Vec::new();
        inspect(&path, json, &mut out).unwrap();
        String::from_utf8(out).unwrap().replace(path.to_str().unwrap(), "PATH")
    }

    #[test]
    fn the_table_is_aligned_and_short() {
        let expected = r#"file             PATH
format           GGUF version 3, alignment 32
architecture     llama
size             4.31 KiB (4416 bytes)
parameters       6.46 K (6464)
bits per weight  4.77

metadata (6)
  general.architecture  string      llama
  llama.rope.freq_base  f32         0.1
  text                  string      a\n\u{1b}[31m
  ids                   40 x i32    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 1 ...
  words                 2 x string  ["a"", "b"]
  nested                2 x array   [[NaN], [true]]

tensors (2)
  token_embd.weight   64 x 100  q4_0  3.52 KiB
  output_norm.weight        64  f32      256 B

totals
  q4_0   1 tensor  6.40 K  3.52 KiB   93.4 %
  f32    1 tensor      64     256 B    6.6 %
  all   2 tensors  6.46 K  3.77 KiB  100.0 %
"#;
        let found = output(false);
        assert_eq!(found, expected, "\n{found}");
    }

    #[test]
    fn the_json_is_complete() {
        let report: serde_json::Value = serde_json::from_str(&output(true)).unwrap();
        assert_eq!(report["parameters"], 6464);
        assert_eq!(report["tensor_bytes"], 3856);
        assert_eq!(
            report["types"][0],
            serde_json::json!({"type": "q4_0", "tensors": 1, "parameters": 6400, "bytes": 3600})
        );
        assert_eq!(report["metadata"]["ids"].as_array().unwrap().len(), 40);
        assert_eq!(report["metadata"]["nested"], serde_json::json!([[null], [true]]));
        assert_eq!(report["metadata"]["text"], "a\n\u{1b}[31m");
        let norm = serde_json::json!({"name": "output_norm.weight", "shape": [64], "type": "f32", "bytes": 256});
        assert_eq!(report["tensors"][1], norm);
        assert!(output(true).contains("\"llama.rope.freq_base\":0.1,"), "f32 keeps its own shortest form");
    }

    #[test]
    fn numbers_round_to_the_next_unit() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1024 * 1024 - 1), "1.00 MiB");
        assert_eq!(human_count(134_515_008), "134.52 M");
        assert_eq!(human_count(7), "7");
    }
}
