//! The order of the house: which module uses which, and where unsafe code may live.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the library may use, besides itself.
const MAY_USE: [(&str, &[&str]); 18] = [
    ("text", &[]),
    ("dtype", &[]),
    ("files", &[]),
    ("gguf", &["dtype", "files"]),
    ("hub", &["files", "text"]),
    ("tokenizer", &["gguf"]),
    ("ggml", &["dtype"]),
    ("plan", &[]),
    ("model", &["dtype", "gguf", "ggml", "plan"]),
    ("exit", &["dtype", "files", "gguf"]),
    ("sample", &[]),
    ("session", &["dtype", "ggml", "model", "plan", "sample"]),
    ("decode", &["exit", "sample", "session"]),
    ("eval", &["decode", "dtype", "exit", "files", "gguf", "model", "plan", "sample", "session", "text", "tokenizer"]),
    ("convert", &["dtype", "files", "gguf", "text", "tokenizer"]),
    ("quantize", &["dtype", "files", "ggml", "gguf", "text"]),
    ("cli", &["dtype", "plan", "quantize", "sample"]),
    (
        "commands",
        &[
            "cli",
            "convert",
            "decode",
            "dtype",
            "eval",
            "exit",
            "files",
            "ggml",
            "gguf",
            "hub",
            "model",
            "plan",
            "quantize",
            "sample",
            "session",
            "text",
            "tokenizer",
        ],
    ),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The library's files with the module that each belongs to.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).expect("below src").iter().next().expect("a name");
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    sources(&root)
        .into_iter()
        .map(|path| (module(&path), path.clone(), fs::read_to_string(&path).expect("text")))
        .filter(|(module, ..)| module != "lib" && module != "main")
        .collect()
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let may_use = BTreeMap::from(MAY_USE);
    let files = files();
    for (module, path, text) in &files {
        let allowed = may_use.get(module.as_str()).unwrap_or_else(|| panic!("{module}: say here what it may use"));
        for (at, _) in text.match_indices("crate::") {
            let used: String =
                text[at + 7..].chars().take_while(|c| c.is_ascii_lowercase() || matches!(c, '_' | '0'..='9')).collect();
            assert!(used == *module || allowed.contains(&used.as_str()), "{}: {module} uses {used:?}", path.display());
        }
    }
    assert!(may_use.keys().all(|name| files.iter().any(|(module, ..)| module == name)), "a module is gone");
}

#[test]
fn unsafe_code_lives_in_ggml_and_around_the_map_of_a_file() {
    for (module, path, text) in files() {
        let allowed = module == "ggml" || path.ends_with("gguf/reader.rs");
        assert!(allowed || !text.contains("allow(unsafe_code)"), "{}", path.display());
    }
}
