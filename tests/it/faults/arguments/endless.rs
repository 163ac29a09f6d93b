//! Files that are no files: devices without an end, pipes to which nobody writes, directories.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use super::Place;
use crate::common::watched::run_within;

/// Everything that reads a file that a user names, with `FILE` for it.
const READERS: [&str; 17] = [
    "inspect FILE",
    "tokenize -m FILE -p hi",
    "tokenize -m m.gguf -f FILE",
    "tokenize -m m.gguf --decode -f FILE",
    "run MODEL -f FILE -n 1",
    "run MODEL --batch FILE -n 1",
    "logits MODEL --batch FILE",
    "run MODEL -p hi -n 1 --layers @FILE",
    "run MODEL -p hi -n 1 --exit-file FILE",
    "perplexity MODEL -f FILE -c 16",
    "perplexity MODEL --kl-divergence --kl-divergence-base FILE",
    "imatrix --in-file FILE -o i.gguf",
    "quantize --imatrix FILE m.gguf q.gguf Q8_0 1",
    "quantize --tensor-type-file FILE m.gguf q.gguf Q8_0 1",
    "layers scan MODEL -f FILE",
    "layers scan MODEL -f t.txt --tokens 16 --window 8 --resume FILE",
    "eval MODEL --exit FILE --task FILE",
];

#[test]
fn nothing_is_read_that_has_no_end() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().expect("it starts").success());
    std::fs::create_dir(place.path("folder")).expect("a folder");
    for name in ["zero", "urandom", "full"] {
        symlink(format!("/dev/{name}"), place.path(name)).expect("a link");
    }
    // Those of pipes wait for somebody who writes: by turns that would take long.
    std::thread::scope(|scope| {
        for line in READERS {
            let place = &place;
            scope.spawn(move || {
                for file in ["zero", "urandom", "full", "folder", "pipe"] {
                    let line = line.replace("FILE", file);
                    let inner = place.command(&line);
                    let mut command = Command::new("sh");
                    // 600 MB are more than any of these may take of a device.
                    let bounded = "ulimit -d 600000; exec \"$0\" \"$@\"";
                    command.args(["-c", bounded]).arg(inner.get_program()).args(inner.get_args());
                    let ended =
                        run_within(command.current_dir(place.path("")), b"", Duration::from_secs(40)).by_itself();
                    assert!(matches!(ended.code, Some(1 | 2)), "{line}: {ended:?}");
                    let words = match file {
                        "folder" => ["directory", "folder"],
                        "pipe" => ["pipe", "pipe"],
                        _ => ["device", "device"],
                    };
                    assert!(words.iter().any(|word| ended.stderr.contains(word)), "{line}: {ended:?}");
                }
            });
        }
    });
}

#[test]
fn stdin_may_be_a_pipe() {
    let place = Place::new();
    for line in ["tokenize -m m.gguf", "tokenize -m m.gguf -f -", "run MODEL -n 1", "perplexity MODEL -f - -c 4"] {
        let input = b"the a th the a b c d e f g the a b c d";
        run_within(&mut place.command(line), input, Duration::from_secs(20)).with(0, &[]);
    }
    let batch = b"{\"text\": \"the\"}\n";
    run_within(&mut place.command("run MODEL -n 1 --batch -"), batch, Duration::from_secs(20)).with(0, &[]);
}
