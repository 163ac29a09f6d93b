//! What tests of the commands share.
#![allow(dead_code)] // each test binary uses its share

pub(crate) mod golden;

use std::process::Command;

/// The path of the demo model. Its absence is a failure: a test that skips shows nothing.
pub(crate) fn demo_model() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(std::path::Path::new(path).exists(), "{path} is missing: `make model` fetches it");
    path.to_owned()
}

/// The program under test.
pub(crate) fn curtail(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curtail"));
    command.args(arguments).env_remove("CURTAIL_MODEL");
    command
}
