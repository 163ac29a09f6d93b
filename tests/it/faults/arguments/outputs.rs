//! Outputs: never an input, never a device that is taken away, and told before the work begins.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use super::Place;
use crate::common::watched::run;

/// Every command that writes, with `OUT` for the output. What else it reads is there.
const WRITERS: [&str; 12] = [
    "quantize m.gguf OUT Q8_0 1",
    "imatrix MODEL -f t.txt -c 64 -o OUT",
    "imatrix --in-file i.gguf -o OUT",
    "train-exit MODEL --task task.toml --rows 60 -o OUT",
    "perplexity MODEL -f t.txt -c 64 --kl-divergence-base OUT",
    "perplexity MODEL -f t.txt -c 64 --report OUT",
    "run MODEL -p hi -n 2 --depth-report OUT",
    "layers scan MODEL -f t.txt --tokens 32 --window 16 --report OUT",
    "layers prune MODEL -f t.txt --tokens 64 --window 16 --skip 1 -o OUT",
    "layers prune MODEL -f t.txt --tokens 64 --window 16 --skip 1 --write OUT",
    "layers prune MODEL -f t.txt --tokens 64 --window 16 --skip 1 --report OUT",
    "convert ck -o OUT",
];

/// What each of them reads besides the model.
fn inputs(line: &str) -> Vec<&'static str> {
    let mut inputs = Vec::new();
    for (word, files) in [
        ("m.gguf", &["m.gguf"][..]),
        ("MODEL", &["m.gguf"]),
        ("t.txt", &["t.txt"]),
        ("i.gguf", &["i.gguf"]),
        ("task.toml", &["task.toml", "rows.csv"]),
        ("ck", &["ck/model.safetensors", "ck/config.json", "ck/tokenizer.json"]),
    ] {
        if line.split(' ').any(|found| found == word) {
            inputs.extend(files);
        }
    }
    inputs
}

fn place() -> Place {
    let place = Place::new();
    let task = "name = \"t\"\nprompt = \"{{ q }} = \"\nlabels = [\"a\", \"b\"]\nanswer = \"a\"\nshots = 0\n\
                train = \"rows.csv\"\ntest = \"rows.csv\"\n";
    fs::write(place.path("task.toml"), task).expect("written");
    fs::write(place.path("rows.csv"), format!("q,a\n{}", "the,0\nth,1\n".repeat(40))).expect("written");
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convert/llama-hf");
    fs::create_dir(place.path("ck")).expect("a folder");
    for entry in fs::read_dir(checkpoint).expect("a checkpoint") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, place.path("ck").join(path.file_name().expect("a name"))).expect("copied");
    }
    run(&mut place.command("imatrix MODEL -f t.txt -c 64 -o i.gguf"), b"").with(0, &[]);
    place
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let place = place();
    for line in WRITERS {
        for input in inputs(line) {
            let path = place.path(input);
            let before = fs::read(&path).expect("an input");
            let _ = (fs::remove_file(place.path("soft")), fs::remove_file(place.path("hard")));
            symlink(&path, place.path("soft")).expect("a link");
            fs::hard_link(&path, place.path("hard")).expect("a link");
            for output in [input, &format!("./{input}"), "soft", "hard"] {
                let ended = run(&mut place.command(&line.replace("OUT", output)), b"");
                ended.with(1, &["is the input", "hint: inputs are never changed"]);
                assert_eq!(fs::read(&path).expect("an input"), before, "{line} {output}");
            }
        }
    }
    let scan = "layers scan MODEL -f t.txt --tokens 32 --window 16 --resume m.gguf";
    run(&mut place.command(scan), b"").with(1, &["is the input"]);
    let twice = "layers prune MODEL -f t.txt --tokens 64 --window 16 --skip 1 -o x --report ./x";
    run(&mut place.command(twice), b"").with(1, &["written twice"]);
}

#[test]
fn outputs_that_cannot_be_are_told_first_and_devices_stay_devices() {
    let place = place();
    for line in WRITERS {
        let output = |name: &str| run(&mut place.command(&line.replace("OUT", name)), b"");
        for (name, expected) in [("ck", "it is a directory"), ("none/x", "there is no directory `none`")] {
            output(name).with(1, &[&format!("cannot write `{name}`: {expected}")]);
        }
        output("/dev/null").with(0, &[]);
        assert!(fs::symlink_metadata("/dev/null").expect("a device").file_type().is_char_device(), "{line}");
        output("/dev/full").with(1, &["/dev/full", "No space left on device"]);
    }
}

#[test]
fn a_pipe_gets_what_is_written() {
    let place = Place::new();
    let pipe = place.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("it starts");
    assert!(made.success());
    let line = "run MODEL -p hi -n 2 --depth-report pipe --temp 0";
    let reads = pipe.clone();
    let reader = std::thread::spawn(move || fs::read_to_string(reads).expect("text"));
    run(&mut place.command(line), b"").with(0, &["written `pipe`"]);
    assert!(reader.join().expect("no panic").trim_end().ends_with("</html>"));
    assert!(fs::symlink_metadata(&pipe).expect("a pipe").file_type().is_fifo());
    run(&mut place.command(line), b"").with(1, &["nobody reads this pipe"]);
}

#[test]
fn a_conversation_is_not_saved_over_its_model() {
    let place = Place::new();
    let before = fs::read(place.path("m.gguf")).expect("the model");
    fs::hard_link(place.path("m.gguf"), place.path("talk.json")).expect("a link");
    fs::hard_link(place.path("m.gguf"), place.path("other.state")).expect("a link");
    fs::create_dir(place.path("dir.json")).expect("a folder");
    let ended = run(&mut place.command("chat MODEL -n 1"), b"/save talk\n/save other.json\n/save dir\n/save good\n");
    for expected in ["`talk.json` is the input", "`other.state` is the input", "it is a directory", "saved `good.json`"]
    {
        assert!(ended.stderr.contains(expected), "{expected:?} is not in {ended:?}");
    }
    assert_eq!(fs::read(place.path("m.gguf")).expect("the model"), before);
}
