//! What the test binaries share.
#![allow(dead_code)] // each of them uses its share

pub(crate) mod checkpoint;
pub(crate) mod fakehub;
pub(crate) mod fuzz;
pub(crate) mod golden;
pub(crate) mod raw;
#[cfg(unix)]
pub(crate) mod terminal;
pub(crate) mod tiny;
#[cfg(unix)]
pub(crate) mod watched;

use std::path::{Path, PathBuf};
use std::process::Command;

use curtail::ggml::Isa;

/// The path of the demo model, in a folder of its own: beside the model in `models/` there may be an exit file, which would
/// change what the commands do. Its absence is a failure: a test that skips shows nothing.
pub(crate) fn demo_model() -> String {
    const NAME: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(NAME);
    assert!(model.exists(), "{} is missing: `make model` fetches it", model.display());
    let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join(NAME);
    // Tests run beside each other: one of them makes it.
    let made = std::os::unix::fs::symlink(&model, &link);
    assert!(link.exists(), "{}: {made:?}", link.display());
    link.to_str().expect("UTF-8").to_owned()
}

/// What llama.cpp gave with the instructions of a level: it adds up in another order for each, and at a near tie that decides.
/// The files named without a level were made with AVX-512.
pub(crate) fn golden_of(isa: Isa, name: &str, extension: &str) -> PathBuf {
    let level = if isa >= Isa::Avx512 { "" } else { ".avx2" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}{level}.{extension}"))
}

/// The program under test.
pub(crate) fn curtail(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curtail"));
    command.args(arguments).env_remove("CURTAIL_MODEL");
    command
}
