//! Where ggml's source lies: in the pinned crate, or where `GGML_DIR` says.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stop;

/// The crate that carries the source.
pub(crate) const PINNED_CRATE: &str = "llama-cpp-sys-2";

/// The folder with `include/` and `src/` of ggml: `GGML_DIR`, or the one inside the pinned crate.
pub(crate) fn ggml_dir() -> PathBuf {
    if let Some(dir) = env::var_os("GGML_DIR").map(PathBuf::from) {
        if !dir.join("include/ggml.h").is_file() {
            stop(&format!("GGML_DIR: expected a ggml source tree, found no `include/ggml.h` in {}", dir.display()));
        }
        println!("cargo:rerun-if-changed={}", dir.display());
        return dir;
    }
    // The filter keeps Cargo from fetching crates of other platforms; cfg(any()) matches none, so no platform is named.
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path", "Cargo.toml"])
        .output()
        .unwrap_or_else(|e| stop(&format!("cannot run `cargo metadata`: {e}")));
    if !output.status.success() {
        stop(&format!("`cargo metadata --locked` failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == PINNED_CRATE)
        .and_then(|p| p["manifest_path"].as_str())
        .unwrap_or_else(|| stop(&format!("Cargo.lock names no `{PINNED_CRATE}`: the ggml pin is missing")));
    Path::new(manifest).with_file_name("llama.cpp").join("ggml")
}
