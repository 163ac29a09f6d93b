//! `list` and `rm`: what is in the cache and in `models/`, and how it goes.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::curtail;

/// A folder with a cache in it, in which the program runs.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Puts a file of the tests into the cache.
    fn fill(&self, repo: &str, name: &str, etag: &str, data: &str) {
        let repo = self.path("hub").join(format!("models--{}", repo.replace('/', "--")));
        for folder in ["blobs", "refs", "snapshots/c1"] {
            fs::create_dir_all(repo.join(folder)).expect("a folder");
        }
        fs::write(repo.join("refs/main"), "c1").expect("written");
        fs::copy(of_tests(data), repo.join("blobs").join(etag)).expect("copied");
        symlink(format!("../../blobs/{etag}"), repo.join("snapshots/c1").join(name)).expect("linked");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = curtail(arguments);
        command
            .env("HF_HUB_CACHE", self.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env("TZ", "UTC")
            .current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("it starts")
    }

    fn listed(&self) -> Vec<serde_json::Value> {
        let output = self.run(&["list", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn of_tests(data: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(data)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn models_are_listed_by_the_names_that_m_takes() {
    let place = Place::new();
    place.fill("o/r", "m-F32.gguf", "e1", "llama_golden/tied.gguf");
    place.fill("o/r", "mmproj-F32.gguf", "e2", "llama_golden/tied.gguf");
    place.fill("o/s", "plain.gguf", "e1", "README.md");
    for no in 1..=3 {
        place.fill(
            "a/split",
            &format!("s-F32-0000{no}-of-00003.gguf"),
            &format!("e{no}"),
            &format!("gguf/split-0000{no}-of-00003.gguf"),
        );
    }
    fs::create_dir(place.path("models")).expect("a folder");
    fs::copy(of_tests("llama_golden/biases.gguf"), place.path("models/biases.gguf")).expect("copied");
    fs::write(place.path("models/biases.exit.gguf"), "").expect("written");
    let rows = place.listed();
    let column = |name: &str| -> Vec<&serde_json::Value> { rows.iter().map(|row| &row[name]).collect() };
    // `plain.gguf` is no GGUF file, and told so.
    assert_eq!(column("name"), ["models/biases.gguf", "a/split:F32", "o/r:F32", "o/s/plain.gguf"]);
    assert_eq!(rows[0]["repo"], serde_json::Value::Null);
    assert_eq!((&rows[2]["repo"], &rows[2]["commit"]), (&"o/r".into(), &"c1".into()));
    assert_eq!((&rows[2]["architecture"], &rows[2]["quantization"]), (&"llama".into(), &"F32".into()));
    assert_eq!(rows[2]["bytes"], fs::metadata(of_tests("llama_golden/tied.gguf")).expect("there").len());
    assert_eq!((&rows[1]["n_parts"], &rows[3]["architecture"]), (&3.into(), &serde_json::Value::Null));
    let time = rows[2]["modified"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 20, "{time}");
    for name in ["models/biases.gguf", "a/split:F32", "o/r:F32"] {
        let output = place.run(&["inspect", "-m", name]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let table = text(&place.run(&["list"]).stdout);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("name ") && lines.len() == 5, "{table}");
    assert!(
        lines[3].starts_with("o/r:F32 ") && lines[3].contains("  llama ") && lines[3].contains(" 268.81 KiB  20"),
        "{table}"
    );
}

#[test]
fn an_empty_list_says_where_it_looked() {
    let place = Place::new();
    let output = place.run(&["list"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert!(text(&output.stderr).contains("(no models in `models` and in `"), "{}", text(&output.stderr));
    assert!(place.listed().is_empty());
}

#[test]
fn nothing_is_removed_unasked() {
    let place = Place::new();
    place.fill("o/r", "m-F32.gguf", "e1", "llama_golden/tied.gguf");
    let output = place.run(&["rm", "o/r"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("error: nobody is there to be asked\nhint: --yes"),
        "{}",
        text(&output.stderr)
    );
    for wrong in ["o/r:Q4_0", "o/none", "o/r/x.gguf"] {
        let output = place.run(&["rm", "--yes", "o/r", wrong]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(": no "), "{}", text(&output.stderr));
    }
    assert_eq!(place.listed().len(), 1, "all are looked for before any is removed");
    fs::create_dir(place.path("models")).expect("a folder");
    fs::copy(of_tests("llama_golden/tied.gguf"), place.path("models/m.gguf")).expect("copied");
    assert_eq!(place.run(&["rm", "--yes", "models/m.gguf"]).status.code(), Some(2), "it is not in the cache");
    assert!(place.path("models/m.gguf").exists());
}

#[test]
fn models_go_and_others_stay() {
    let place = Place::new();
    place.fill("o/r", "m-F32.gguf", "e1", "llama_golden/tied.gguf");
    place.fill("o/r", "m-Q8_0.gguf", "e2", "llama_golden/biases.gguf");
    place.fill("o/s", "m-F32.gguf", "e1", "llama_golden/tied.gguf");
    let output = place.run(&["rm", "-f", "o/r:f32", "o/s"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains("  o/r/m-F32.gguf\n") && said.contains("(removed `o/r:f32`: 268.81 KiB freed)"), "{said}");
    assert!(place.path("hub/models--o--r/blobs/e2").exists() && !place.path("hub/models--o--r/blobs/e1").exists());
    assert!(!place.path("hub/models--o--s").exists());
    let rows = place.listed();
    assert_eq!((rows.len(), &rows[0]["name"]), (1, &"o/r:Q8_0".into()));
}

#[test]
fn a_terminal_is_asked() {
    let place = Place::new();
    place.fill("o/r", "m-F32.gguf", "e1", "llama_golden/tied.gguf");
    for (answer, said, left) in [("n", "(nothing was removed)", 1), ("y", "(removed `o/r:F32`", 0)] {
        let mut session =
            rexpect::session::spawn_command(place.command(&["rm", "o/r:F32"]), Some(60_000)).expect("it starts");
        session.exp_string("`o/r:F32`: 268.81 KiB to be freed").expect("what goes");
        session.exp_string("remove? [y/N] ").expect("a question");
        session.send_line(answer).expect("typed");
        session.exp_string(said).expect("what was done");
        session.exp_eof().expect("the end");
        assert_eq!(place.listed().len(), left);
    }
}
