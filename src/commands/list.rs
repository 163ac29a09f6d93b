//! `list`: the models in the cache and in `models/`, as `-m` takes them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use chrono::{DateTime, Local, SecondsFormat, Utc};
use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::shared::columns::{Align, columns};
use super::shared::open::models_in;
use super::shared::{note, print_line, screen};
use crate::cli::ListArgs;
use crate::convert::checkpoints_of;
use crate::gguf::{File, Metadata, TensorInfo};
use crate::hub::{CachedModel, Hub};
use crate::model::{ARCHITECTURES, Arch};

pub(super) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    if args.supported {
        return print_supported(args.json);
    }
    let hub = Hub::from_env()?;
    let cached = hub.cache.models().into_iter().map(Row::cached);
    let rows: Vec<Row> = models_in(Path::new("models")).into_iter().map(Row::beside).chain(cached).collect();
    if args.json {
        print_line(&serde_json::to_string(&rows)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        note(format_args!(
            "(no models in `models` and in `{}`: `curtail pull ORG/REPO` gets one)",
            hub.cache.root().display()
        ));
    } else {
        screen::stdout().write_all(table(&rows).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The architectures that run, from the table that loading reads.
fn print_supported(json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let of = |arch: &Arch| {
            let (checkpoints, features) = (checkpoints_of(arch.name), arch.features());
            json!({"name": arch.name, "models": arch.models, "checkpoints": checkpoints, "features": features})
        };
        print_line(&Value::Array(ARCHITECTURES.iter().map(of).collect()).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells = |arch: &Arch| {
        let (checkpoints, features) = (checkpoints_of(arch.name).join(", "), arch.features().join("; "));
        [arch.name.to_owned(), arch.models.to_owned(), checkpoints, features]
    };
    let head = ["architecture", "models", "converted from", "parts"].map(str::to_owned);
    let rows: Vec<[String; 4]> = [head].into_iter().chain(ARCHITECTURES.iter().map(cells)).collect();
    let mut text = String::new();
    columns(&mut text, "", &rows, [Align::Left; 4]);
    screen::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A line of the list.
#[derive(Serialize)]
struct Row {
    /// As `-m` takes it.
    name: String,
    path: PathBuf,
    /// `null` for a file in `models/`.
    repo: Option<String>,
    commit: Option<String>,
    /// `null`, as the next, for a file that cannot be read.
    architecture: Option<String>,
    quantization: Option<String>,
    bytes: u64,
    n_parts: usize,
    /// RFC 3339, in UTC.
    modified: Option<String>,
    #[serde(skip)]
    time: Option<SystemTime>,
}

impl Row {
    fn cached(model: CachedModel) -> Row {
        let file = File::open(&model.path).ok();
        let row = Row::of(model.name, model.path, file.as_ref(), model.modified);
        Row { repo: Some(model.repo), commit: Some(model.commit), bytes: model.bytes, n_parts: model.n_parts, ..row }
    }

    fn beside(path: PathBuf) -> Row {
        let file = File::open(&path).ok();
        let modified = fs::metadata(&path).and_then(|file| file.modified()).ok();
        Row::of(path.display().to_string(), path, file.as_ref(), modified)
    }

    fn of(name: String, path: PathBuf, file: Option<&File>, time: Option<SystemTime>) -> Row {
        let on_disk = || fs::metadata(&path).map_or(0, |file| file.len());
        Row {
            name,
            repo: None,
            commit: None,
            architecture: file.and_then(|file| file.metadata().str("general.architecture").ok()?.map(str::to_owned)),
            quantization: file.map(|file| quantization(file.metadata(), file.tensors())),
            bytes: file.map_or_else(on_disk, File::file_bytes),
            n_parts: file.map_or(1, File::n_parts),
            modified: time.map(|time| DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)),
            time,
            path,
        }
    }
}

fn table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let text =
            |text: &Option<String>| text.as_ref().map_or_else(|| "?".into(), |text| text.escape_debug().to_string());
        let time = row.time.map(|time| DateTime::<Local>::from(time).format("%Y-%m-%d %H:%M").to_string());
        let (architecture, quantization) = (text(&row.architecture), text(&row.quantization));
        [row.name.clone(), architecture, quantization, HumanBytes(row.bytes).to_string(), time.unwrap_or_default()]
    };
    let head = ["name", "architecture", "quantization", "size", "modified"].map(str::to_owned);
    let rows: Vec<[String; 5]> = [head].into_iter().chain(rows.iter().map(cells)).collect();
    let mut text = String::new();
    columns(&mut text, "", &rows, [Align::Left, Align::Left, Align::Left, Align::Right, Align::Left]);
    text
}

/// The quantization that the file names, else the type of most of its bytes.
fn quantization(metadata: &Metadata, tensors: &[TensorInfo]) -> String {
    let named = metadata.u32("general.file_type").ok().flatten().and_then(file_type);
    named.map_or_else(|| widest_type(tensors), str::to_owned)
}

fn widest_type(tensors: &[TensorInfo]) -> String {
    let bytes = |t: &TensorInfo| tensors.iter().filter(|u| u.dtype == t.dtype).map(|u| u.bytes).sum::<usize>();
    let widest = tensors.iter().max_by_key(|t| bytes(t));
    widest.map_or_else(|| "none".into(), |t| t.dtype.name().to_uppercase())
}

/// The names of `general.file_type`, which are llama.cpp's (`llama_ftype` in its `llama.h`).
fn file_type(number: u32) -> Option<&'static str> {
    const NAMES: [&str; 42] = [
        "F32",
        "F16",
        "Q4_0",
        "Q4_1",
        "",
        "",
        "",
        "Q8_0",
        "Q5_0",
        "Q5_1",
        "Q2_K",
        "Q3_K_S",
        "Q3_K_M",
        "Q3_K_L",
        "Q4_K_S",
        "Q4_K_M",
        "Q5_K_S",
        "Q5_K_M",
        "Q6_K",
        "IQ2_XXS",
        "IQ2_XS",
        "Q2_K_S",
        "IQ3_XS",
        "IQ3_XXS",
        "IQ1_S",
        "IQ4_NL",
        "IQ3_S",
        "IQ3_M",
        "IQ2_S",
        "IQ2_M",
        "IQ4_XS",
        "IQ1_M",
        "BF16",
        "",
        "",
        "",
        "TQ1_0",
        "TQ2_0",
        "MXFP4_MOE",
        "NVFP4",
        "Q1_0",
        "Q2_0",
    ];
    NAMES.get(number as usize).copied().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_types_have_their_numbers() {
        for (number, name) in [
            (0, "F32"),
            (7, "Q8_0"),
            (15, "Q4_K_M"),
            (18, "Q6_K"),
            (25, "IQ4_NL"),
            (32, "BF16"),
            (36, "TQ1_0"),
            (39, "NVFP4"),
        ] {
            assert_eq!(file_type(number), Some(name));
        }
        assert_eq!((file_type(5), file_type(33), file_type(42), file_type(1024)), (None, None, None, None));
    }
}
