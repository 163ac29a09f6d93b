//! Plans of any numbers.

use std::time::Duration;

use super::made::Made;
use crate::common::curtail;
use crate::common::watched;

/// Numbers are refused before anything is made of them: under a limit of memory that their repetition would not fit in.
#[test]
fn no_number_is_too_large_to_be_refused() {
    let made = Made::new();
    let plan = made.path("plan.txt");
    let many = "0-3,".repeat(2000) + "0";
    std::fs::write(&plan, vec!["0<>1"; 100_000].join("\n")).expect("written");
    let file = format!("@{}", plan.display());
    for (arg, text, code, says) in [
        ("--layers", "0x4097", 2, "expected at most 4096 steps, found 4100"),
        ("--layers", "0x100000000", 2, "expected at most 4096 steps, found 100000003"),
        ("--layers", "0-1,1x1000000000000", 2, "expected at most 4096 steps, found 1000000000002"),
        ("--layers", "0:mlpx4294967296", 2, "expected at most 4096 steps, found 4294967296"),
        ("--layers", "0-4294967296", 2, "expected a layer below 4, found 4294967296"),
        ("--layers", "~4294967296", 2, "expected a layer below 4, found 4294967296"),
        ("--layers", "0<>4294967296", 2, "expected a layer below 4, found 4294967296"),
        ("--layers", "0x18446744073709551615", 2, "expected 2 or more times"),
        ("--layers", &many, 2, "expected at most 4096 steps"),
        ("--layers", &file, 1, "expected at most 8192 items, found more"),
        ("--draft", "skip:4294967296", 2, "expected a layer below 4, found 4294967296"),
        ("--draft", "layer:4294967296", 2, "expected a whole number from 1"),
        ("--draft", "layer:4", 2, "expected 1 to 3"),
        ("--draft", "skip:0-4294967296:attn", 2, "expected a layer below 4"),
    ] {
        let limited = "ulimit -v 2000000; exec \"$0\" \"$@\""; // 2 GB of addresses
        let mut command = std::process::Command::new("sh");
        command.args(["-c", limited, env!("CARGO_BIN_EXE_curtail")]).env_remove("CURTAIL_MODEL");
        command.args(["run", "-m", &made.model, "-t", "1", "-p", "hi", "-n", "1", arg, text]);
        let ended = watched::run_within(&mut command, b"", Duration::from_secs(10)).with(code, &[says]);
        assert!(ended.stderr.len() < 1000, "{text}: {} bytes of message", ended.stderr.len());
    }
}

#[test]
fn other_commands_take_the_same_plans() {
    let made = Made::new();
    let text = made.path("text.txt");
    std::fs::write(&text, "the th he ".repeat(60)).expect("written");
    let text = text.to_str().expect("UTF-8");
    for rest in [&["perplexity", "-f", text, "-c", "64"][..], &["layers", "scan", "-f", text], &["bench", "-p", "8"]] {
        let mut command = curtail(rest);
        command.args(["-m", &made.model, "-t", "1", "--layers", "0x100000000"]);
        watched::run(&mut command, b"").with(2, &["expected at most 4096 steps"]);
    }
}
