//! Models of a hub: `pull` and `-m` against a hub on this machine, which misbehaves where it is told to.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::curtail;
use crate::common::fakehub::{COMMIT, FakeHub, State, git_sha1, sha256};

/// A cache, and the program as it sees a hub.
struct Place {
    home: tempfile::TempDir,
    endpoint: String,
}

impl Place {
    fn beside(hub: &FakeHub) -> Place {
        Place { home: tempfile::tempdir().expect("a folder"), endpoint: hub.endpoint.clone() }
    }

    /// The same cache, and nobody who answers.
    fn without_hub(self) -> Place {
        // The port is free again, and nobody takes it so soon.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        Place { endpoint: format!("http://{free}"), ..self }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = curtail(arguments);
        for (name, _) in std::env::vars_os() {
            let lower = name.to_string_lossy().to_lowercase();
            if lower.starts_with("hf_") || lower.starts_with("huggingface") || lower.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.endpoint).current_dir(self.home.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("it starts")
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--o--r")
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(name)
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(sha256(bytes))
    }

    fn partial(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(sha256(bytes) + ".incomplete")
    }
}

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).expect("a file of the tests")
}

fn tiny() -> Vec<u8> {
    data("llama_golden/tied.gguf")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn succeeds(output: Output) -> Output {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

#[track_caller]
fn fails(output: &Output, code: i32, expected: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for text in expected {
        assert!(said.contains(text), "{text:?} in {said}");
    }
}

#[test]
fn a_model_lands_where_other_programs_look_for_it() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("README.md", b"text"), ("a b/m-Q4_0.gguf", &bytes), ("m-Q8_0.gguf", b"other")]);
    let place = Place::beside(&hub);
    let output = succeeds(place.run(&["pull", "o/r"]));
    let file = place.snapshot("a b/m-Q4_0.gguf");
    assert_eq!(stdout(&output), format!("{}\n", file.display()));
    assert!(stderr(&output).contains("(pulling `o/r`: ") && !stderr(&output).contains('\x1b'), "{}", stderr(&output));
    assert_eq!(fs::read_link(&file).expect("a link"), Path::new("../../../blobs").join(sha256(&bytes)));
    assert_eq!(fs::read(&file).expect("the file"), bytes);
    assert_eq!(fs::read_to_string(place.repo().join("refs/main")).expect("a reference"), COMMIT);
    assert_eq!(fs::read_dir(place.repo().join("blobs")).expect("blobs").count(), 1, "one file was asked for");
    // The second time nothing is downloaded.
    let again = succeeds(place.run(&["pull", "o/r:q4_0", "--json"]));
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    let expected = serde_json::json!({"repo": "o/r", "commit": COMMIT, "files": [{"path": file, "bytes": bytes.len(), "downloaded": false}]});
    assert_eq!(report, expected);
    assert_eq!(hub.ranges(), [None]);
}

#[test]
fn a_model_is_named_to_any_command_and_pulled_once() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m-F32.gguf", &bytes)]);
    let place = Place::beside(&hub);
    let first = succeeds(place.run(&["tokenize", "-m", "o/r:F32", "-p", "a", "--json"]));
    assert!(stderr(&first).contains("(pulling `o/r:F32`: "), "{}", stderr(&first));
    // From now on nobody is asked, and nothing said.
    let place = place.without_hub();
    for model in ["o/r:f32", "o/r", "o/r/m-F32.gguf", "hf.co/o/r"] {
        let again = succeeds(place.run(&["tokenize", "-m", model, "-p", "a", "--json"]));
        assert_eq!((again.stdout, again.stderr), (first.stdout.clone(), Vec::new()), "{model}");
    }
    succeeds(place.run(&["inspect", "o/r"]));
    let by_variable = place.command(&["inspect"]).env("CURTAIL_MODEL", "o/r").output().expect("it starts");
    succeeds(by_variable);
    fails(&place.run(&["inspect", "o/r:Q4_0"]), 1, &["error: cannot reach http://127.0.0.1:"]);
}

#[test]
fn a_file_that_exists_wins_and_a_path_stays_a_path() {
    let hub = FakeHub::with(&[("m-F32.gguf", &tiny())]);
    let place = Place::beside(&hub);
    fs::create_dir_all(place.home.path().join("o")).expect("a folder");
    fs::write(place.home.path().join("o/r"), data("gguf/types.gguf")).expect("written");
    let output = succeeds(place.run(&["inspect", "o/r"]));
    assert!(stdout(&output).contains("file             o/r\n"), "{}", stdout(&output));
    // Its folder is there: a slip, not a name of the hub.
    for missing in ["o/m.gguf", "o/x", "missing.gguf", "/no/such.gguf"] {
        let text = format!("error: cannot open `{missing}`: no such file\nhint: a model of the hub is named ORG/REPO");
        fails(&place.run(&["inspect", "-m", missing]), 1, &[&text]);
    }
    assert!(hub.state().requests.is_empty());
    succeeds(place.run(&["inspect", "-m", "hf.co/o/r"]));
    assert!(!hub.state().requests.is_empty());
}

#[test]
fn a_choice_that_fails_lists_what_is_there() {
    let hub = FakeHub::with(&[("m-Q4_0.gguf", b"1"), ("n-Q4_0.gguf", b"22"), ("mmproj-F16.gguf", b"3")]);
    hub.state().names.push("large-Q8_0.gguf".into());
    let place = Place::beside(&hub);
    let missing = place.run(&["pull", "o/r:Q5_K_M"]);
    fails(
        &missing,
        1,
        &["no model file with `Q5_K_M` in its name; there are:\n", "\n  large-Q8_0.gguf    4.00 GiB\n", "m-Q4_0.gguf"],
    );
    assert!(!stderr(&missing).contains("mmproj"), "{}", stderr(&missing));
    fails(
        &place.run(&["pull", "o/r:Q4_0"]),
        1,
        &["2 models fit `o/r:Q4_0`", "n-Q4_0.gguf", "hint: ORG/REPO/FILE names one"],
    );
    fails(&place.run(&["pull", "o/r"]), 1, &["2 models fit `o/r`"]);
    succeeds(place.run(&["pull", "o/r/n-Q4_0.gguf"]));
    fails(&place.run(&["pull", "models/m.gguf"]), 2, &["error: `models/m.gguf`: expected ORG/REPO, "]);
}

#[test]
fn all_parts_of_a_split_model_come() {
    let parts: Vec<Vec<u8>> = (1..=3).map(|no| data(&format!("gguf/split-0000{no}-of-00003.gguf"))).collect();
    let names: Vec<String> = (1..=3).map(|no| format!("F32/s-F32-0000{no}-of-00003.gguf")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().zip(&parts).map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let hub = FakeHub::with(&files);
    let place = Place::beside(&hub);
    let output = succeeds(place.run(&["inspect", "--json", "-m", "o/r:F32"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["n_parts"], 3);
    assert!(stderr(&output).contains(" in 3 files)"), "{}", stderr(&output));
    let path = succeeds(place.run(&["pull", "o/r/F32/s-F32-00002-of-00003.gguf"]));
    assert_eq!(stdout(&path).trim_end(), place.snapshot(&names[0]).display().to_string());
    hub.state().files.remove(&names[1]);
    fails(&place.run(&["pull", "o/r"]), 1, &["is one of 3 parts, found 2"]);
}

#[test]
fn a_connection_that_is_cut_is_taken_up_again() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    hub.state().cuts = vec![1000, 2000];
    let place = Place::beside(&hub);
    let output = succeeds(place.run(&["pull", "o/r"]));
    assert!(stderr(&output).contains("trying again"), "{}", stderr(&output));
    assert_eq!(hub.ranges(), [None, Some("bytes=1000-".into()), Some("bytes=3000-".into())]);
    assert_eq!(fs::read(place.snapshot("m.gguf")).expect("the file"), bytes);
    assert!(!place.partial(&bytes).exists());
}

#[test]
fn what_a_failed_run_has_loaded_the_next_one_keeps() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    (hub.state().cuts, hub.state().refusals) = (vec![5000], vec![410]);
    let place = Place::beside(&hub);
    fails(&place.run(&["pull", "o/r"]), 1, &["410"]);
    assert_eq!(fs::read(place.partial(&bytes)).expect("the part"), bytes[..5000]);
    assert!(!place.snapshot("m.gguf").exists() && !place.repo().join("refs/main").exists());
    let output = succeeds(place.run(&["pull", "o/r"]));
    assert!(stderr(&output).contains(", 4.88 KiB of them are there)"), "{}", stderr(&output));
    assert_eq!(hub.ranges().last(), Some(&Some("bytes=5000-".into())));
    assert_eq!(fs::read(place.snapshot("m.gguf")).expect("the file"), bytes);
}

#[test]
fn servers_that_begin_anew_and_servers_that_are_busy() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    (hub.state().cuts, hub.state().no_ranges, hub.state().refusals) = (vec![5000], true, vec![503]);
    let place = Place::beside(&hub);
    succeeds(place.run(&["pull", "o/r"]));
    assert_eq!(hub.ranges().len(), 3);
    assert_eq!(fs::read(place.snapshot("m.gguf")).expect("the file"), bytes);
}

#[test]
fn bytes_with_another_checksum_are_not_kept() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    hub.state().wrong = true;
    let place = Place::beside(&hub);
    let expected = format!("error: `m.gguf`: expected the SHA-256 {}, found ", sha256(&bytes));
    fails(&place.run(&["pull", "o/r"]), 1, &[&expected, "the download was deleted\nhint: try again"]);
    assert!(!place.snapshot("m.gguf").exists() && !place.blob(&bytes).exists() && !place.partial(&bytes).exists());
    // A part that was damaged on the disk is found out as well.
    hub.state().wrong = false;
    fs::write(place.partial(&bytes), vec![7; 5000]).expect("written");
    fails(&place.run(&["pull", "o/r"]), 1, &[&expected]);
    succeeds(place.run(&["pull", "o/r"]));
}

#[test]
fn a_gated_repository_wants_a_token_which_stays_with_the_hub() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    hub.state().token = Some("hf_secret".into());
    let place = Place::beside(&hub);
    let refused = ["error: `o/r`: the hub refuses access (401: Access is restricted.)\nhint: ", "set HF_TOKEN"];
    fails(&place.run(&["pull", "o/r"]), 1, &refused);
    let wrong = place.command(&["pull", "o/r"]).env("HF_TOKEN", "hf_wrong").output().expect("it starts");
    fails(&wrong, 1, &["the token that is set gives no access"]);
    assert!(!stderr(&wrong).contains("hf_wrong"), "{}", stderr(&wrong));
    succeeds(place.command(&["pull", "o/r"]).env("HF_TOKEN", "hf_secret").output().expect("it starts"));
    fs::remove_dir_all(place.home.path().join("hub")).expect("removed");
    fs::write(place.home.path().join("token"), "hf_secret\n").expect("written");
    succeeds(place.run(&["pull", "o/r"]));
    let state = hub.state();
    let storage: Vec<_> = state.requests.iter().filter(|request| request.path.starts_with("/cdn/")).collect();
    assert!(storage.len() == 2 && storage.iter().all(|request| request.authorization.is_none()), "{storage:?}");
}

#[test]
fn revisions_are_noted_and_unknown_ones_told() {
    let hub = FakeHub::with(&[("m.gguf", &tiny())]);
    let place = Place::beside(&hub);
    succeeds(place.run(&["pull", "o/r", "--revision", "v1"]));
    succeeds(place.run(&["pull", "o/r", "--revision", "refs/pr/1"]));
    succeeds(place.run(&["pull", "o/r", "--revision", COMMIT]));
    for name in ["v1", "refs/pr/1"] {
        assert_eq!(fs::read_to_string(place.repo().join("refs").join(name)).expect("a reference"), COMMIT);
    }
    assert!(!place.repo().join("refs/main").exists() && !place.repo().join("refs").join(COMMIT).exists());
    fails(
        &place.run(&["pull", "o/r", "--revision", "v9"]),
        1,
        &["no repository or revision `v9` (404: Invalid rev id)"],
    );
    fails(&place.run(&["pull", "o/r", "--revision", "../v1"]), 1, &["revision: expected a branch, a tag or a commit"]);
    fails(&place.run(&["pull", "o/none"]), 1, &["`o/none`: the hub has no repository", "(404: Repository not found)"]);
    // By its other commit's name it is found without the hub as well.
    succeeds(place.without_hub().run(&["inspect", "o/r"]));
}

#[test]
fn a_renamed_repository_and_a_file_of_git_itself() {
    let bytes = tiny();
    let plain = [("m.gguf".to_owned(), bytes.clone())].into();
    let hub = FakeHub::start(State { plain, ..State::default() });
    let place = Place::beside(&hub);
    succeeds(place.run(&["pull", "old/name"]));
    let repo = place.home.path().join("hub/models--old--name");
    assert_eq!(fs::read(repo.join("blobs").join(git_sha1(&bytes))).expect("the blob"), bytes);
    assert_eq!(fs::read(repo.join("snapshots").join(COMMIT).join("m.gguf")).expect("the file"), bytes);
}

#[test]
fn a_list_without_sizes_is_enough() {
    let hub = FakeHub::with(&[("m-Q4_0.gguf", &tiny())]);
    hub.state().bare_list = true;
    let place = Place::beside(&hub);
    fails(&place.run(&["pull", "o/r:Q8_0"]), 1, &["\n  m-Q4_0.gguf"]);
    succeeds(place.run(&["pull", "o/r"]));
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../m.gguf", "/m.gguf", "a/../../m.gguf", "a\\m.gguf"] {
        let hub = FakeHub::with(&[("m-Q4_0.gguf", &tiny())]);
        hub.state().names.push(name.into());
        let place = Place::beside(&hub);
        fails(&place.run(&["pull", "o/r"]), 1, &["expected names of files below the repository, found"]);
        assert!(!place.repo().exists(), "{name}");
    }
}

#[test]
fn a_disk_that_is_too_small_is_told_before_anything_is_loaded() {
    let hub = FakeHub::with(&[("m.gguf", &tiny())]);
    hub.state().claimed_bytes = Some(1 << 60);
    let place = Place::beside(&hub);
    fails(&place.run(&["pull", "o/r"]), 1, &["error: not enough space in `", "1.00 EiB are needed, "]);
    assert!(hub.ranges().is_empty() && !place.repo().exists());
}

#[test]
fn offline_only_the_cache_counts() {
    let hub = FakeHub::with(&[("m.gguf", &tiny())]);
    let place = Place::beside(&hub);
    let offline = |arguments: &[&str]| place.command(arguments).env("HF_HUB_OFFLINE", "1").output().expect("it starts");
    for arguments in [&["pull", "o/r"][..], &["inspect", "o/r"]] {
        fails(&offline(arguments), 1, &["error: `o/r` is not in the cache, and HF_HUB_OFFLINE is set"]);
    }
    assert!(hub.state().requests.is_empty());
    let pulled = succeeds(place.run(&["pull", "o/r"]));
    let n_requests = hub.state().requests.len();
    assert_eq!(succeeds(offline(&["pull", "o/r"])).stdout, pulled.stdout);
    succeeds(offline(&["inspect", "o/r"]));
    fails(&offline(&["pull", "o/r", "--revision", "v1"]), 1, &["is not in the cache"]);
    assert_eq!(hub.state().requests.len(), n_requests);
}

#[test]
fn an_interrupt_keeps_what_has_come() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    hub.state().silent_after = Some(5000);
    let place = Place::beside(&hub);
    let child = place
        .command(&["inspect", "-m", "o/r"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    wait_until(|| fs::metadata(place.partial(&bytes)).is_ok_and(|part| part.len() == 5000));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("it starts");
    assert!(killed.success());
    let begun = Instant::now();
    let output = child.wait_with_output().expect("it ends");
    fails(&output, 130, &["error: interrupted"]);
    assert!(begun.elapsed() < Duration::from_secs(20) && output.stdout.is_empty());
    hub.state().silent_after = None;
    succeeds(place.run(&["inspect", "-m", "o/r"]));
    assert_eq!(hub.ranges(), [None, Some("bytes=5000-".into())]);
}

#[test]
fn a_file_that_another_program_loads_is_waited_for() {
    let bytes = tiny();
    let hub = FakeHub::with(&[("m.gguf", &bytes)]);
    let place = Place::beside(&hub);
    let locks = place.home.path().join("hub/.locks/models--o--r");
    fs::create_dir_all(&locks).expect("a folder");
    let lock = fs::File::create(locks.join(sha256(&bytes) + ".lock")).expect("a file");
    lock.lock().expect("locked");
    let child =
        place.command(&["pull", "o/r"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    wait_until(|| hub.state().requests.iter().any(|request| request.method == "HEAD"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(hub.ranges().is_empty());
    // The other program is done.
    fs::create_dir_all(place.repo().join("blobs")).expect("a folder");
    fs::write(place.blob(&bytes), &bytes).expect("written");
    drop(lock);
    let output = succeeds(child.wait_with_output().expect("it ends"));
    assert!(stderr(&output).contains("(another program downloads this file: waiting for it)"), "{}", stderr(&output));
    assert!(hub.ranges().is_empty() && place.snapshot("m.gguf").exists());
}

#[track_caller]
fn wait_until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
