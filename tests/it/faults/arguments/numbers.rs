//! Every number that can be typed, out of all bounds.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use clap::{Arg, CommandFactory};
use curtail::cli::{self, Cli};

use super::Place;
use crate::common::watched::{Ended, run_within};

const NUMBERS: [&str; 11] = [
    "0",
    "-1",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "1e308",
    "1e-45",
    "NaN",
    "inf",
];

/// What stands for numbers in the help: others are names, texts and files.
const MEANS_NUMBERS: [&str; 10] =
    ["N", "X", "PP,TG", "N|all|auto", "SHARES", "LAYERS", "LAYER", "L0,L1,...", "N(M|G)", "SOURCE"];

/// A little work of every command that has numbers, and its options that name a file or must be alone.
const WORK: [(&str, &str); 13] = [
    ("chat", "MODEL -n 1"),
    ("run", "MODEL -p hi -n 1 --temp 0.5"),
    ("bench", "MODEL -p 4 -n 1 -r 1 --no-warmup"),
    ("logits", "MODEL --batch b.jsonl"),
    ("perplexity", "MODEL -f t.txt -c 16 --chunks 1"),
    ("imatrix", "MODEL -f t.txt -c 16 --chunks 1 -o i.gguf"),
    ("train-exit", "MODEL --task task.toml --rows 60 -o x.gguf"),
    ("eval", "MODEL --task task.toml --rows 2 --exit e.gguf"),
    ("layers scan", "MODEL -f t.txt --tokens 16 --window 8"),
    ("layers prune", "MODEL -f t.txt --tokens 64 --window 8 --skip 1 --tries 1 --at-context 1"),
    ("doctor", "MODEL"),
    ("quantize", "m.gguf q.gguf Q8_0 1"),
    ("tokenize", "-m m.gguf -p hi"),
];

fn place() -> Place {
    let place = Place::new();
    let task = "name = \"t\"\nprompt = \"{{ q }} = \"\nlabels = [\"a\", \"b\"]\nanswer = \"a\"\nshots = 0\n\
                train = \"rows.csv\"\ntest = \"rows.csv\"\n";
    std::fs::write(place.path("task.toml"), task).expect("written");
    std::fs::write(place.path("rows.csv"), format!("q,a\n{}", "the,0\nth,1\n".repeat(40))).expect("written");
    std::fs::write(place.path("b.jsonl"), "{\"prompt\": [1, 2], \"tokens\": [3]}\n").expect("written");
    let train = "train-exit MODEL --task task.toml --rows 60 -o e.gguf";
    run_within(&mut place.command(train), b"", Duration::from_secs(30)).with(0, &[]);
    place
}

/// The options of a command that take numbers, by their long names.
fn numeric(name: &str) -> Vec<String> {
    let mut root = Cli::command();
    root.build();
    let command = name.split(' ').fold(&root, |command, name| command.find_subcommand(name).expect("a command"));
    let is_numeric = |arg: &&Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        arg.get_action().takes_values() && names.iter().any(|name| MEANS_NUMBERS.contains(&name.as_str()))
    };
    command.get_arguments().filter(is_numeric).filter_map(Arg::get_long).map(str::to_owned).collect()
}

/// The value of an option that stands for a number: where more than a number is wanted, that.
fn value(option: &str, number: &str) -> String {
    match option {
        "pg" => format!("{number},{number}"),
        "tensor-split" => format!("{number},{number}"),
        "split-max-size" => format!("{number}G"),
        "draft" => format!("layer:{number}"),
        _ => number.to_owned(),
    }
}

/// The program with no more than 3 GB of data: what reserves unchecked fails.
fn bounded(place: &Place, line: &str) -> Command {
    let inner = place.command(line);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -d 3145728; exec \"$0\" \"$@\""]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(place.path("")).env_remove("CURTAIL_MODEL");
    command
}

/// Ends by itself, soon, and says why where it fails.
#[track_caller]
fn sound(ended: Ended, line: &str) {
    let ended = ended.by_itself();
    assert!(matches!(ended.code, Some(0..=2)), "{line}: {ended:?}");
    assert!(ended.code == Some(0) || ended.stderr.contains("error: "), "{line}: {ended:?}");
}

#[test]
fn every_number_of_every_command_is_taken_or_refused() {
    let place = place();
    let lines: Vec<String> = WORK.iter().flat_map(|(name, work)| lines_of(name, work)).collect();
    // Many do not get past the reading of the command line: they need no process.
    let taken: Vec<&String> =
        lines.iter().filter(|line| cli::parse(line.split(' ').map(OsString::from)).is_ok()).collect();
    assert!(lines.len() > 1000 && taken.len() > 200, "{} of {}", taken.len(), lines.len());
    std::thread::scope(|scope| {
        for half in taken.chunks(taken.len().div_ceil(2)) {
            let place = &place;
            scope.spawn(move || {
                for line in half {
                    let line = line.strip_prefix("curtail ").expect("the name of the program");
                    sound(run_within(&mut bounded(place, line), b"hi\n", Duration::from_secs(20)), line);
                }
            });
        }
    });
}

/// A command with each of its numbers out of bounds. What the work says about the option itself goes.
fn lines_of(name: &str, work: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for option in numeric(name) {
        let work = without(name, work, &option).replace("MODEL", "-m m.gguf -t 1");
        for number in NUMBERS {
            lines.push(format!("curtail {name} {work} --{option}={}", value(&option, number)));
        }
    }
    lines
}

/// A line without an option and its value, in both spellings.
fn without(name: &str, work: &str, option: &str) -> String {
    let mut root = Cli::command();
    root.build();
    let command = name.split(' ').fold(&root, |command, name| command.find_subcommand(name).expect("a command"));
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(option)).expect("an option");
    let short = arg.get_short().map(|short| format!("-{short}"));
    let work = if option == "threads" { work.replace("MODEL", "-m m.gguf") } else { work.to_owned() };
    let mut words = work.split(' ');
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        if word == format!("--{option}") || Some(word) == short.as_deref() {
            words.next();
        } else {
            rest.push(word);
        }
    }
    rest.join(" ")
}

#[test]
fn what_is_refused_says_what_is_expected_once() {
    let place = place();
    for (line, expected) in [
        ("run MODEL -p hi -s x", "expected a whole number from 0 to 2^64 - 1, or -1 to draw one"),
        ("run MODEL -p hi -n -2", "expected a whole number from 0 to 2147483647, or -1 for all"),
        ("run MODEL -p hi -c 9223372036854775807", "expected a whole number from 0 to 2147483647"),
        ("bench MODEL -r 100000000000000", "expected a whole number from 1 to 100000"),
        ("run MODEL -p hi -ctk q9", "expected a tensor type"),
        ("bench MODEL -p 4-1", "it ends before it begins"),
    ] {
        let ended = run_within(&mut place.command(line), b"", Duration::from_secs(20)).with(2, &[expected]);
        let value = line.rsplit(' ').next().expect("a word");
        let said = ended.stderr.lines().next().expect("a line");
        assert_eq!(
            said.matches(&format!("{value}'")).count() + said.matches(&format!("`{value}`")).count(),
            1,
            "{said}"
        );
    }
    let found = run_within(&mut place.command("chat MODEL"), b"/set seed x\n", Duration::from_secs(20));
    assert!(
        found.stderr.contains("or -1 to draw one, found `x`") && found.stderr.matches("`x`").count() == 1,
        "{found:?}"
    );
}

#[test]
fn as_many_threads_as_help_are_taken() {
    let place = place();
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let note = format!("expected at most {most}, as many as run at once here, found 512: taking {most}");
    for line in [
        "run -m m.gguf -p hi -n 2 -t 512",
        "bench -m m.gguf -p 4 -n 0 -r 1 -t 512",
        "doctor -m m.gguf -t 512",
        "perplexity -m m.gguf -f t.txt -c 16 --chunks 1 -t 512",
        "quantize m.gguf q.gguf Q8_0 512",
    ] {
        run_within(&mut place.command(line), b"", Duration::from_secs(20)).with(0, &[&note]);
    }
    let line = format!("bench -m m.gguf -p 4 -n 0 -r 1 -o json -t {most},512,1000");
    let ended = run_within(&mut place.command(&line), b"", Duration::from_secs(20)).with(0, &["found 1000"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&ended.stdout).expect("JSON");
    let threads: BTreeSet<u64> = rows.iter().map(|row| row["n_threads"].as_u64().expect("a number")).collect();
    assert_eq!((rows.len(), threads), (1, BTreeSet::from([most as u64])), "what does not help is timed once");
}

#[test]
fn a_context_beyond_what_was_learned_is_told() {
    let place = place();
    let line = "run MODEL -p hi -n 1 -c 512";
    let ended = run_within(&mut place.command(line), b"", Duration::from_secs(20));
    ended.with(0, &["trained with 256 tokens of context, -c asks for 512", "hint: "]);
    let ended = run_within(&mut place.command("run MODEL -p hi -n 1"), b"", Duration::from_secs(20)).with(0, &[]);
    assert!(!ended.stderr.contains("trained with"), "{ended:?}");
    // No machine has this; it says what takes less.
    let ended =
        run_within(&mut bounded(&place, "run -m m.gguf -t 1 -p hi -c 2000000000"), b"", Duration::from_secs(20));
    ended.with(1, &["hint: "]);
}
