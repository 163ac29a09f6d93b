//! Which instructions the program uses, and what it says where they are not there.

use std::path::Path;
use std::process::Command;

use crate::common::curtail;
use curtail::ggml::{built_isas, processor_isa, usable_isas};

#[test]
fn a_level_is_forced_shown_and_refused() {
    for isa in usable_isas() {
        let output = curtail(&["doctor", "--json"]).env("CURTAIL_ISA", isa.name()).output().expect("it starts");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["instructions"]["used"], isa.name());
        assert_eq!(report["instructions"]["is_forced"], Some(&isa) != usable_isas().last());
        assert_eq!(report["instructions"]["built_in"].as_array().expect("names").len(), built_isas().len());
        assert_eq!(report["instructions"]["allowed"], processor_isa().name());
    }
    for wrong in ["sse9", "AVX2 "] {
        let output = curtail(&["doctor"]).env("CURTAIL_ISA", wrong).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("CURTAIL_ISA: expected one of `") && said.contains(&format!("found `{wrong}`")),
            "{said}"
        );
    }
}

/// What is written to a tile's configuration must reach memory: gcc before 14 lets the compiler drop it. Two programs that differ
/// only in a number of the configuration must differ.
#[cfg(target_arch = "x86_64")]
#[test]
fn tile_configurations_are_not_optimized_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let assembly = |rows: u8| {
        let source = folder.path().join("tiles.c");
        let text = format!(
            "#include <immintrin.h>\n#include <stdint.h>\n\
             void configure(void) {{\n\
               struct {{ uint8_t palette, start, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; }} c = {{0}};\n\
               c.palette = 1; c.rows[5] = {rows}; c.colsb[5] = 64;\n\
               _tile_loadconfig(&c);\n\
             }}\n\
             void load(signed char * tile) {{\n\
               tile[7] = {rows};\n\
               _tile_loadd(1, tile, 64);\n\
               tile[7] = 0;\n\
             }}\n"
        );
        std::fs::write(&source, text).expect("written");
        let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor/amx_tiles.h");
        // As the build does: a wrapper may stand before the compiler's name.
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut words = compiler.split_whitespace();
        let mut compiler = Command::new(words.next().expect("a compiler"));
        compiler
            .args(words)
            .args(["-O3", "-mamx-tile", "-mamx-int8", "-S", "-o", "-", "-include"])
            .arg(&header)
            .arg(&source);
        let output = compiler.output().expect("the compiler that built ggml");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("assembly")
    };
    let of = |text: &str, name: &str| {
        let start = text.find(&format!("\n{name}:")).expect("the function");
        text[start..start + text[start..].find(".cfi_endproc").expect("its end")].to_owned()
    };
    // Constants of vectors lie outside the functions.
    let (one, other) = (assembly(3), assembly(4));
    assert_ne!(one, other);
    assert_ne!(of(&one, "load"), of(&other, "load"), "what a tile is loaded from is written too late");
    let without_load = |text: &str| text.replace(&of(text, "load"), "");
    assert_ne!(without_load(&one), without_load(&other), "rows of the configuration are not written");
}
