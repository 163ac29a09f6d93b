//! Owns the statistics of timed runs and their forms: a Markdown table, CSV, or JSON with llama-bench's field names.

use std::io::Write;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;

use super::Test;
use crate::cli::{BenchArgs, BenchFormat};
use crate::commands::shared::depth::LayersPerToken;
use crate::commands::shared::{print_line, screen};
use crate::generate::median;
use crate::gguf::File;

/// The timed runs of one test.
pub(super) struct Row {
    pub(super) n_threads: usize,
    /// What computes.
    pub(super) backends: String,
    /// Layers on other devices than the CPU.
    pub(super) n_gpu_layers: usize,
    /// Whether attention of the last layer is one fused operation.
    pub(super) flash_attn: bool,
    pub(super) test: Test,
    pub(super) samples: Vec<Duration>,
    /// Bytes of weights that one run reads.
    pub(super) weights_bytes: f64,
    /// What ran.
    pub(super) plan: String,
    /// Full depth's time over the time taken.
    pub(super) of_full: f64,
    /// How tokens stop early.
    pub(super) exit: &'static str,
    /// Layers per generated token.
    pub(super) layers: LayersPerToken,
    /// With forced stops: the time that their layers would take over the time taken.
    pub(super) of_ideal: Option<f64>,
    /// What a look cost, where there were looks.
    pub(super) look: Option<Look>,
}

/// The cost of a look at a checkpoint.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) us: f64,
    /// In layers.
    pub(super) of_layer: f64,
}

/// Prints rows as they come (Markdown, CSV) or all at the end (JSON).
pub(super) struct Report {
    format: BenchFormat,
    fixed: Fixed,
    records: Vec<Value>,
    begun: bool,
    /// Whether generations stop early somewhere.
    exits: bool,
    /// Whether other plans than full depth run.
    plans: bool,
}

/// What all rows share, in llama-bench's order.
#[derive(Clone, Serialize)]
struct Fixed {
    build_version: &'static str,
    cpu_info: String,
    model_filename: String,
    model_type: String,
    model_size: usize,
    model_n_params: usize,
    n_batch: usize,
    type_k: &'static str,
    type_v: &'static str,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    fixed: &'a Fixed,
    backends: &'a str,
    n_gpu_layers: usize,
    flash_attn: bool,
    n_threads: usize,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    test_time: String,
    avg_ns: f64,
    stddev_ns: f64,
    avg_ts: f64,
    stddev_ts: f64,
    median_ts: f64,
    min_ts: f64,
    max_ts: f64,
    weights_gb_s: f64,
    layers: &'a str,
    of_full_depth: f64,
    exit: &'static str,
    n_layer: usize,
    layers_per_token: f64,
    layers_needed_per_token: f64,
    of_ideal: Option<f64>,
    look_us: Option<f64>,
    look_of_layer: Option<f64>,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
}

impl Report {
    pub(super) fn new(file: &File, args: &BenchArgs) -> Report {
        Report {
            format: args.output,
            fixed: Fixed::new(file, args),
            records: Vec::new(),
            begun: false,
            exits: super::hows(args).len() > 1,
            plans: !args.layers.is_empty(),
        }
    }

    /// Takes the next row, and prints it where the form allows.
    pub(super) fn row(&mut self, row: &Row) -> anyhow::Result<()> {
        let record = Record::new(&self.fixed, row);
        let mut out = screen::stdout();
        match self.format {
            BenchFormat::Md => {
                if !self.begun {
                    writeln!(out, "{}", markdown_head(&self.fixed, self.exits, self.plans))?;
                }
                writeln!(out, "{}", markdown_row(&record, row.test, self.exits, self.plans))?;
            }
            BenchFormat::Csv => {
                let record = serde_json::to_value(&record)?;
                if !self.begun {
                    writeln!(out, "{}", csv_line(&record, |name, _| name.to_string()))?;
                }
                writeln!(out, "{}", csv_line(&record, |_, value| csv_value(value)))?;
            }
            BenchFormat::Json => self.records.push(serde_json::to_value(&record)?),
        }
        self.begun = true;
        Ok(out.flush()?)
    }

    /// Prints what could not be printed row by row.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        if self.format == BenchFormat::Json {
            print_line(&serde_json::to_string_pretty(&self.records)?)?;
        }
        Ok(())
    }
}

impl Fixed {
    fn new(file: &File, args: &BenchArgs) -> Fixed {
        let n_params = file.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum();
        Fixed {
            build_version: env!("CARGO_PKG_VERSION"),
            cpu_info: cpu_info(),
            model_filename: file.path().display().to_string(),
            model_type: model_type(file, n_params),
            model_size: file.tensors().iter().map(|t| t.bytes).sum(),
            model_n_params: n_params,
            n_batch: args.batch_size,
            type_k: args.cache.cache_type_k.name(),
            type_v: args.cache.cache_type_v.name(),
        }
    }
}

impl<'a> Record<'a> {
    fn new(fixed: &'a Fixed, row: &'a Row) -> Record<'a> {
        let samples_ns: Vec<u64> = row.samples.iter().map(|t| (t.as_nanos() as u64).max(1)).collect();
        let ns: Vec<f64> = samples_ns.iter().map(|&t| t as f64).collect();
        let n_tokens = (row.test.n_prompt + row.test.n_gen) as f64;
        let ts: Vec<f64> = ns.iter().map(|t| n_tokens * 1e9 / t).collect();
        let (avg_ns, avg_ts) = (mean(&ns), mean(&ts));
        Record {
            fixed,
            backends: &row.backends,
            n_gpu_layers: row.n_gpu_layers,
            flash_attn: row.flash_attn,
            n_threads: row.n_threads,
            n_prompt: row.test.n_prompt,
            n_gen: row.test.n_gen,
            n_depth: row.test.n_depth,
            test_time: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            avg_ns: avg_ns.round(),
            stddev_ns: stddev(&ns).round(),
            avg_ts,
            stddev_ts: stddev(&ts),
            median_ts: median(ts.iter().copied()).unwrap_or(0.0),
            min_ts: ts.iter().copied().fold(f64::INFINITY, f64::min),
            max_ts: ts.iter().copied().fold(0.0, f64::max),
            // Bytes in a nanosecond are gigabytes in a second.
            weights_gb_s: row.weights_bytes / avg_ns,
            layers: &row.plan,
            of_full_depth: row.of_full,
            exit: row.exit,
            n_layer: row.layers.n_layer,
            layers_per_token: row.layers.executed,
            layers_needed_per_token: row.layers.needed,
            of_ideal: row.of_ideal,
            look_us: row.look.map(|look| look.us),
            look_of_layer: row.look.map(|look| look.of_layer),
            samples_ns,
            samples_ts: ts,
        }
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Of the sample, as llama-bench has it: divided by n - 1.
fn stddev(x: &[f64]) -> f64 {
    if x.len() < 2 {
        return 0.0;
    }
    let mean = mean(x);
    (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt()
}

fn markdown_head(fixed: &Fixed, exits: bool, plans: bool) -> String {
    let [names, rules] = if exits {
        [
            " exit     | layers | needed | of ideal | a look            |",
            " -------- | -----: | -----: | -------: | ----------------: |",
        ]
    } else {
        [""; 2]
    };
    let [plan_names, plan_rules] = if plans { [" of full depth | plan |", " ------------: | ---- |"] } else { [""; 2] };
    let (name, rule) = (fixed.model_type.len().max(5), "-".repeat(fixed.model_type.len().max(5)));
    format!(
        "| {:<name$} | {:>10} | {:>8} | {:<7} | {:>7} | {:>13} | {:>18} | {:>9} | {:>9} | {:>9} | {:>7} |{names}{plan_names}\n\
         | {rule} | ---------: | -------: | ------- | ------: | ------------: | -----------------: | --------: | \
         --------: | --------: | ------: |{rules}{plan_rules}",
        "model", "size", "params", "backend", "threads", "test", "t/s", "median", "min", "max", "GB/s"
    )
}

fn markdown_row(record: &Record, test: Test, exits: bool, plans: bool) -> String {
    let ideal = record.of_ideal.map_or_else(String::new, |share| format!("{share:.3}"));
    let mean = |layers: f64| if test.n_gen > 0 { format!("{layers:.2}") } else { String::new() };
    let (layers, needed) = (mean(record.layers_per_token), mean(record.layers_needed_per_token));
    let look = record.look_us.zip(record.look_of_layer);
    let look = look.map_or_else(String::new, |(us, layers)| format!("{us:.1} us, {:.1} %", 100.0 * layers));
    let exit = if exits {
        format!(" {:<8} | {layers:>6} | {needed:>6} | {ideal:>8} | {look:>17} |", record.exit)
    } else {
        String::new()
    };
    let plan = if plans { format!(" {:>13.3} | {} |", record.of_full_depth, record.layers) } else { String::new() };
    let fixed = record.fixed;
    let name = fixed.model_type.len().max(5);
    format!(
        "| {:<name$} | {:>10} | {:>8} | {:<7} | {:>7} | {:>13} | {:>18} | {:>9.2} | {:>9.2} | {:>9.2} | {:>7.2} |{exit}{plan}",
        fixed.model_type,
        size(fixed.model_size),
        params(fixed.model_n_params),
        record.backends,
        record.n_threads,
        test.to_string(),
        format!("{:.2} ± {:.2}", record.avg_ts, record.stddev_ts),
        record.median_ts,
        record.min_ts,
        record.max_ts,
        record.weights_gb_s,
    )
}

/// One line of CSV; arrays have no place in it.
fn csv_line(record: &Value, cell: impl Fn(&str, &Value) -> String) -> String {
    let fields = record.as_object().into_iter().flatten();
    let cells: Vec<String> = fields.filter(|(_, v)| !v.is_array()).map(|(name, value)| cell(name, value)).collect();
    cells.join(",")
}

fn csv_value(value: &Value) -> String {
    match value.as_str() {
        Some(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        None => value.to_string(),
    }
}

fn size(bytes: usize) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib >= 1024.0 { format!("{:.2} GiB", mib / 1024.0) } else { format!("{mib:.2} MiB") }
}

fn params(n: usize) -> String {
    if n >= 1_000_000_000 { format!("{:.2} B", n as f64 / 1e9) } else { format!("{:.2} M", n as f64 / 1e6) }
}

/// Architecture, size and the type that most of the weights have.
fn model_type(file: &File, n_params: usize) -> String {
    let architecture = file.metadata().str("general.architecture").ok().flatten().unwrap_or("unknown");
    let scale = if n_params >= 1_000_000_000 { (1e9, "B") } else { (1e6, "M") };
    let dtype = file
        .tensors()
        .iter()
        .map(|t| t.dtype)
        .max_by_key(|dtype| file.tensors().iter().filter(|t| t.dtype == *dtype).map(elements).sum::<usize>())
        .map_or(String::new(), |dtype| dtype.name().to_uppercase());
    format!("{architecture} {:.0}{} {dtype}", n_params as f64 / scale.0, scale.1)
}

fn elements(tensor: &crate::gguf::TensorInfo) -> usize {
    tensor.shape.iter().product()
}

/// The processor's name where the system tells it.
fn cpu_info() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or(String::new(), |(_, name)| name.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(samples_ms: &[u64]) -> Value {
        let fixed = Fixed {
            build_version: "0",
            cpu_info: "a \"fast\" one".into(),
            model_filename: "m.gguf".into(),
            model_type: "llama 135M Q4_1".into(),
            model_size: 1 << 20,
            model_n_params: 135_000_000,
            n_batch: 512,
            type_k: "f16",
            type_v: "f16",
        };
        let samples = samples_ms.iter().map(|&ms| Duration::from_millis(ms)).collect();
        let row = Row {
            n_threads: 2,
            backends: "CPU".into(),
            n_gpu_layers: 0,
            flash_attn: false,
            test: Test { n_prompt: 0, n_gen: 100, n_depth: 0 },
            samples,
            weights_bytes: 2e9,
            plan: "0-29".into(),
            of_full: 1.0,
            exit: "off",
            layers: LayersPerToken { executed: 30.0, needed: 30.0, n_layer: 30 },
            of_ideal: None,
            look: None,
        };
        serde_json::to_value(Record::new(&fixed, &row)).unwrap()
    }

    #[test]
    fn statistics_of_the_samples() {
        let record = record(&[1000, 500, 2000]);
        assert_eq!(record["samples_ts"], serde_json::json!([100.0, 200.0, 50.0]));
        assert_eq!((record["min_ts"].as_f64(), record["max_ts"].as_f64()), (Some(50.0), Some(200.0)));
        assert_eq!(record["median_ts"], 100.0);
        // Mean 350/3; squared distances 2500/9 + 62500/9 + 40000/9, halved.
        assert!((record["avg_ts"].as_f64().unwrap() - 350.0 / 3.0).abs() < 1e-9);
        assert!((record["stddev_ts"].as_f64().unwrap() - (105_000.0f64 / 18.0).sqrt()).abs() < 1e-9);
        assert!((record["weights_gb_s"].as_f64().unwrap() - 2e9 / (3.5e9 / 3.0)).abs() < 1e-9);
    }

    #[test]
    fn one_sample_has_no_deviation() {
        assert_eq!(record(&[10])["stddev_ts"], 0.0);
    }

    #[test]
    fn csv_quotes_texts_and_leaves_arrays_out() {
        let record = record(&[10]);
        let head = csv_line(&record, |name, _| name.to_string());
        let line = csv_line(&record, |_, value| csv_value(value));
        assert!(head.starts_with("build_version,cpu_info,") && !head.contains("samples"));
        assert!(line.starts_with("\"0\",\"a \"\"fast\"\" one\",\"m.gguf\","));
    }
}
