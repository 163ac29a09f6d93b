//! Layers per token: one definition, wherever it is told.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::made::{Made, N_LAYER};
use crate::common::curtail;
use crate::common::watched::{self, Ended};

/// Greedy `run` of the tiny model.
fn run(made: &Made, arguments: &[&str]) -> Ended {
    let mut command = curtail(&["run", "-m", &made.model, "-t", "1", "--temp", "0"]);
    watched::run(command.args(arguments), b"").with(0, &[])
}

/// What the last line says: executed, of how many, whether more or saved of how many percent, needed.
#[derive(Debug, PartialEq)]
struct Told {
    executed: f64,
    n_layer: usize,
    percent: f64,
    is_loss: bool,
    needed: f64,
}

fn told(ended: &Ended) -> Told {
    let line = ended.stderr.lines().find(|line| line.contains(" per token, ")).expect("a line of statistics");
    let (_, text) = line.split_once("| layers ").expect("layers");
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let number = |i: usize| words[i].parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
    assert_eq!((words[1], words[3], words[4], words[6]), ("of", "per", "token", "%"), "{line}");
    let needed = words.get(8).map_or(number(0), |_| number(8));
    assert!(words.get(9).is_none_or(|word| *word == "needed"), "{line}");
    Told { executed: number(0), n_layer: number(2) as usize, percent: number(5), is_loss: words[7] == "more", needed }
}

impl Told {
    /// Fails unless the percentage is that of the layers, and a loss is one.
    #[track_caller]
    fn is_consistent(&self) {
        let saved = 100.0 * (1.0 - self.executed / self.n_layer as f64);
        assert!((saved.abs() - self.percent).abs() < 0.2, "{self:?}");
        assert!(self.is_loss == (saved < -0.05), "{self:?}");
    }
}

/// The depths of the tokens of one line of `run --batch`.
fn depths(made: &Made, n: usize, arguments: &[&str]) -> (Vec<f64>, Told) {
    let batch = made.path("batch.jsonl");
    std::fs::write(&batch, "{\"text\": \"the th he\"}\n").expect("written");
    let n = n.to_string();
    let batch = ["--batch", batch.to_str().expect("UTF-8"), "-n", &n];
    let ended = run(made, &[&batch, arguments].concat());
    let answer: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let layers = answer["layers"].as_array().expect("a list").iter();
    (layers.map(|layers| layers.as_f64().expect("a number")).collect(), told(&ended))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn a_plan_is_told_beside_all_layers() {
    let made = Made::new();
    for (plan, line, each) in [
        ("0-3", "layers 4.00 of 4 per token, 0.0 % saved", 4.0),
        ("0-1", "layers 2.00 of 4 per token, 50.0 % saved", 2.0),
        ("~3:attn", "layers 3.50 of 4 per token, 12.5 % saved", 3.5),
        ("~1,~3:mlp", "layers 2.50 of 4 per token, 37.5 % saved", 2.5),
        ("0-1x2,2-3", "layers 6.00 of 4 per token, 50.0 % more", 6.0),
    ] {
        let ended = run(&made, &["-p", "hi", "-n", "5", "--layers", plan]);
        assert!(ended.stderr.lines().any(|told| told.ends_with(line)), "{plan}: {}", ended.stderr);
        assert_eq!(depths(&made, 5, &["--layers", plan]).0, [each; 5], "{plan}");
    }
    // Whole numbers have no point.
    let batch = made.path("batch.jsonl");
    let ended = run(&made, &["--batch", batch.to_str().expect("UTF-8"), "-n", "2"]);
    assert!(ended.stdout.contains("\"layers\":[4,4]"), "{}", ended.stdout);
}

#[test]
fn what_was_settled_later_is_executed() {
    let made = Made::new();
    made.exit_file().save(&made.path("tiny.exit.gguf")).expect("written");
    for most in ["1", "3", "8"] {
        let n = 24;
        let (depths, told) = depths(&made, n, &["--exit", "fast", "--draft-max", most]);
        told.is_consistent();
        assert!(depths.contains(&1.0) && depths.contains(&4.0), "some stop, some settle: {depths:?}");
        assert!((told.needed - mean(&depths)).abs() < 0.01, "{told:?} {depths:?}");
        // The rows that still wait at the end have been through one layer, all others through all.
        let waiting = (4.0 - told.executed) * n as f64 / 3.0;
        assert!((waiting - waiting.round()).abs() < 0.1, "{told:?}");
        assert!((0.0..=most.parse::<f64>().expect("a number") + 2.0).contains(&waiting.round()), "{told:?}");
        assert!(told.executed > told.needed, "{told:?}");
    }
}

#[test]
fn a_loss_is_told_as_one() {
    let made = Made::new();
    for draft in ["layer:1", "skip:1-2", "skip:3:attn"] {
        let (depths, told) = depths(&made, 24, &["--draft", draft, "--draft-max", "4"]);
        told.is_consistent();
        assert!((told.needed - mean(&depths)).abs() < 0.01, "{told:?} {depths:?}");
        // Rows that a draft takes part of the way go on from there; a draft that skips runs beside.
        assert!(told.is_loss && told.executed > 4.0 && told.n_layer == N_LAYER, "{draft}: {told:?}");
        let each = if draft == "layer:1" {
            1.0
        } else if draft == "skip:1-2" {
            2.0
        } else {
            3.5
        };
        assert!(depths.iter().all(|layers| [each, 4.0].contains(layers)), "{draft}: {depths:?}");
    }
}

/// A piped conversation.
fn chat(made: &Made, arguments: &[&str], lines: &str) -> Ended {
    let mut command = curtail(&["chat", "-m", &made.model, "-t", "1", "--temp", "0", "-n", "12"]);
    watched::run(command.args(arguments), lines.as_bytes()).with(0, &[])
}

#[test]
fn the_histogram_adds_up_to_the_line_above_it() {
    let made = Made::new();
    made.exit_file().save(&made.path("tiny.exit.gguf")).expect("written");
    let ended = chat(&made, &["--exit", "fast"], "hi\nthe\n/stats\n");
    let told = told(&ended);
    told.is_consistent();
    let lines = ended.stderr.lines().skip_while(|line| *line != "tokens by the layers that they needed:").skip(1);
    let bar = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&"layers")).then(|| (words[0].to_owned(), words[2].parse::<usize>().expect("a count")))
    };
    let counts: BTreeMap<String, usize> = lines.map_while(bar).collect();
    let n: usize = counts.values().sum();
    let sum: f64 = counts.iter().map(|(layers, n)| layers.parse::<f64>().expect("layers") * *n as f64).sum();
    assert!(counts.len() > 1 && n > 4, "{}", ended.stderr);
    assert!((sum / n as f64 - told.needed).abs() < 0.01, "{counts:?} {told:?}");
    assert!(ended.stderr.contains(&format!("generated {n} tokens")), "{}", ended.stderr);
}

#[test]
fn the_mode_that_was_asked_for_is_named() {
    let made = Made::new();
    let modes =
        "/exit-mode\n/exit-mode verified\n/exit-mode\n/exit-mode auto\n/exit-mode off\n/exit-mode verified\nhi\n";
    for (arguments, first) in
        [(&["--exit", "verified"][..], "verified"), (&[], "off"), (&["--draft", "layer:1"], "verified")]
    {
        let ended = chat(&made, arguments, &format!("{modes}/stats\n"));
        let named: Vec<&str> = ended.stderr.lines().filter_map(|line| line.strip_prefix("exit mode: ")).collect();
        assert_eq!(named, [first, "verified", "verified", "auto", "off", "verified"], "{}", ended.stderr);
        // The source that was asked for is still what drafts, always.
        let drafts = ended.stderr.lines().find(|line| line.starts_with("drafts "));
        assert!(drafts.is_some() || first != "verified" || arguments[0] == "--exit", "{}", ended.stderr);
    }
}

fn json(command: &mut Command) -> Value {
    let ended = watched::run(command, b"").with(0, &[]);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[test]
fn bench_tells_executed_and_needed_layers() {
    let made = Made::new();
    let mut bench = curtail(&["bench", "-m", &made.model, "-t", "1", "-p", "0", "-n", "8", "-r", "1", "-o", "json"]);
    let rows = json(bench.args(["--layers", "~3:attn", "--exit-layers", "1,4"]));
    let of = |name: &str| rows.as_array().expect("rows").iter().map(|row| row[name].as_f64()).collect::<Vec<_>>();
    assert_eq!(of("n_layer"), [Some(4.0); 4], "{rows}");
    // In turn after one layer and after all (of the plan, where the last is half a layer).
    assert_eq!(of("layers_needed_per_token"), [Some(4.0), Some(2.5), Some(3.5), Some(2.25)], "{rows}");
    assert_eq!(of("layers_per_token"), [Some(4.0), Some(4.0), Some(3.5), Some(3.5)], "{rows}");
}

#[test]
fn perplexity_tells_them_too() {
    let made = Made::new();
    made.exit_file().save(&made.path("tiny.exit.gguf")).expect("written");
    let text = made.path("text.txt");
    std::fs::write(&text, "the th he ".repeat(60)).expect("written");
    let text = text.to_str().expect("UTF-8");
    let measured = |arguments: &[&str]| {
        let mut command = curtail(&["perplexity", "-m", &made.model, "-t", "1", "-f", text, "-c", "64", "--json"]);
        let found = json(command.args(arguments));
        let of = |name: &str| found[name].as_f64().unwrap_or_else(|| panic!("{name}: {found}"));
        assert_eq!(of("mean_layers"), of("layers_needed_per_token"), "{found}");
        (of("layers_per_token"), of("layers_needed_per_token"), of("n_layer"))
    };
    assert_eq!(measured(&["--exit", "off"]), (4.0, 4.0, 4.0));
    assert_eq!(measured(&["--exit", "off", "--layers", "~3:attn"]), (3.5, 3.5, 4.0));
    assert_eq!(measured(&["--exit-layers", "3"]), (3.0, 3.0, 4.0));
    let (executed, needed, n_layer) = measured(&["--exit", "fast"]);
    assert!(1.0 < needed && needed < executed && executed <= n_layer, "{executed} {needed}");
}

#[test]
fn a_depth_report_counts_layers_of_the_model() {
    let made = Made::new();
    let page = made.path("depth.html");
    for (plan, says) in [("0-1", "2 of 4 layers"), ("~3:attn", "3.5 of 4 layers"), ("0-3", "4 of 4 layers")] {
        run(&made, &["-p", "hi", "-n", "4", "--layers", plan, "--depth-report", page.to_str().expect("UTF-8")]);
        let html = std::fs::read_to_string(&page).expect("a page");
        assert_eq!(html.matches(says).count(), 4, "{plan}: {html}");
    }
}

/// Other programs that keep every processor busy.
struct Busy(Vec<std::process::Child>);

impl Busy {
    fn new() -> Busy {
        let n = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let spin = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        Busy((0..n).map(spin).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn doctor_measures_twice_and_suspects_load() {
    let made = Made::new();
    let busy = Busy::new();
    let report = json(&mut curtail(&["doctor", "-m", &made.model, "-t", "1", "--json"]));
    let text = watched::run(&mut curtail(&["doctor", "-m", &made.model, "-t", "1"]), b"").with(0, &[]);
    drop(busy);
    let rounds: Vec<f64> = report["model"]["rounds_tokens_per_second"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|round| round.as_f64().expect("a number"))
        .collect();
    assert_eq!(rounds.len(), 2, "{report}");
    assert_eq!(report["model"]["tokens_per_second"].as_f64(), Some(rounds[0].max(rounds[1])), "{report}");
    let load = report["model"]["load"].as_str().unwrap_or_default();
    assert!(load.contains("for a processor") || load.contains("load average"), "{report}");
    assert!(text.stdout.contains(" tokens per second at full depth (measured: "), "{text:?}");
    assert!(text.stdout.contains("\n  this machine may do more: "), "{text:?}");
}
