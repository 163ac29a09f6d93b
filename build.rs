//! Compiles the pinned ggml source and generates its bindings. What is compiled is listed in vendor/sources.txt.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::exit;

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/cuda.rs"]
mod cuda;
#[path = "build/levels.rs"]
mod levels;
#[path = "build/source.rs"]
mod source;

fn main() {
    for path in ["build.rs", "build", "Cargo.lock", "vendor/wrapper.h", "vendor/amx_tiles.h", "vendor/sources.txt"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in ["GGML_DIR", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let ggml = source::ggml_dir();
    bindings::bind(&ggml, &out);
    compile::compile(&ggml, &out);
}

fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).expect("OUT_DIR is writable");
    }
}

fn stop(message: &str) -> ! {
    println!("cargo:warning={}", message.replace('\n', " "));
    eprintln!("error: {message}");
    exit(1)
}
