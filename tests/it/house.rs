//! The order of the house: which module uses which, what lies in `commands`, where unsafe code may live, and how long files and
//! functions are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the library may use, besides itself.
const MAY_USE: [(&str, &[&str]); 20] = [
    ("text", &[]),
    ("dtype", &[]),
    ("files", &[]),
    ("gguf", &["dtype", "files"]),
    ("hub", &["files", "text"]),
    ("tokenizer", &["gguf"]),
    ("ggml", &["dtype"]),
    ("kernels", &["dtype", "ggml"]),
    ("plan", &[]),
    ("model", &["dtype", "gguf", "ggml", "kernels", "plan"]),
    ("exit", &["dtype", "files", "gguf", "plan"]),
    ("sample", &[]),
    ("engine", &["dtype", "exit", "ggml", "kernels", "model", "plan", "sample"]),
    ("generate", &["exit", "plan", "sample", "engine"]),
    ("classify", &["exit", "model", "plan", "engine", "text", "tokenizer"]),
    (
        "eval",
        &[
            "classify",
            "dtype",
            "exit",
            "files",
            "generate",
            "gguf",
            "model",
            "plan",
            "sample",
            "engine",
            "text",
            "tokenizer",
        ],
    ),
    ("convert", &["dtype", "files", "gguf", "text", "tokenizer"]),
    ("quantize", &["dtype", "files", "ggml", "gguf", "text"]),
    ("cli", &["dtype", "plan", "quantize", "sample"]),
    (
        "commands",
        &[
            "classify",
            "cli",
            "convert",
            "dtype",
            "eval",
            "exit",
            "files",
            "generate",
            "ggml",
            "gguf",
            "hub",
            "model",
            "plan",
            "quantize",
            "sample",
            "engine",
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

/// Within a folder, which of its files and folders uses which. What `mod.rs` says belongs to all of them and does not count.
#[test]
fn files_of_a_folder_use_each_other_in_one_direction() {
    let files = files();
    let paths: BTreeSet<Names> = files.iter().map(|(_, path, _)| names(path)).collect();
    let mut uses: BTreeMap<String, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let pairs: Vec<(Names, Names)> = files
        .iter()
        .flat_map(|(_, path, text)| {
            let user = names(path);
            let used = paths_in(&code(text)).into_iter().map(|path| resolved(&user, &path, &paths)).collect::<Vec<_>>();
            used.into_iter().map(move |used| (user.clone(), used))
        })
        .collect();
    for (user, used) in &pairs {
        let shared = user.iter().zip(used).take_while(|(a, b)| a == b).count();
        if let (Some(a), Some(b), 1..) = (user.get(shared), used.get(shared), shared) {
            uses.entry(user[..shared].join("/")).or_default().entry(a).or_default().insert(b);
        }
    }
    for (folder, uses) in &uses {
        let circles = circles(uses);
        assert!(circles.is_empty(), "src/{folder}: circles of {circles:?}");
    }
}

/// A module as the names on the way to it: `src/gguf/reader.rs` is `gguf`, `reader`.
type Names = Vec<String>;

fn names(path: &Path) -> Names {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("below src");
    let mut names: Names =
        below.with_extension("").iter().map(|name| name.to_str().expect("UTF-8").to_owned()).collect();
    names.pop_if(|last| last == "mod");
    names
}

/// The text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// All paths that begin at the crate, at the module itself or above it.
fn paths_in(code: &str) -> Vec<Names> {
    let mut paths = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let is_begin = !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
            if is_begin {
                add_tree(&code[at..], &[], &mut paths);
            }
        }
    }
    paths
}

/// Adds the paths of a tree such as `a::{b, c::d}` and gives what follows it.
fn add_tree<'t>(text: &'t str, before: &[String], paths: &mut Vec<Names>) -> &'t str {
    let mut text = text.trim_start();
    if let Some(inner) = text.strip_prefix('{') {
        text = inner;
        while !text.trim_start().starts_with('}') && !text.trim().is_empty() {
            let rest = add_tree(text, before, paths);
            // What a tree may have beside paths: `*`, `as Name`, the comma.
            text = rest.trim_start_matches(|c: char| !matches!(c, '}' | ','));
            text = text.strip_prefix(',').unwrap_or(text);
        }
        return text.trim_start().strip_prefix('}').unwrap_or(text);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = [before, &[name.to_owned()]].concat();
    match rest.strip_prefix("::") {
        Some(rest) => add_tree(rest, &path, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

/// The module that a path of another leads to.
fn resolved(user: &[String], path: &[String], modules: &BTreeSet<Names>) -> Names {
    let mut found = if path[0] == "crate" { Vec::new() } else { user.to_vec() };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(found.pop()),
            name => {
                found.push(name.to_owned());
                if !modules.contains(&found) {
                    found.pop();
                    break;
                }
            }
        }
    }
    found
}

/// Groups of names of which each reaches all others.
fn circles<'n>(uses: &BTreeMap<&'n str, BTreeSet<&'n str>>) -> BTreeSet<BTreeSet<&'n str>> {
    let reached = |from: &'n str| {
        let (mut found, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(name) = next.pop() {
            next.extend(uses.get(name).into_iter().flatten().filter(|used| found.insert(**used)));
        }
        found
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|name| (*name, reached(name))).collect();
    let group = |(name, below): (&&'n str, &BTreeSet<&'n str>)| {
        below.iter().copied().filter(|other| all.get(other).is_some_and(|back| back.contains(name))).collect()
    };
    all.iter().map(group).filter(|group: &BTreeSet<&str>| group.len() > 1).collect()
}

#[test]
fn commands_holds_verbs_and_what_they_share() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let cli = fs::read_to_string(root.join("cli/mod.rs")).expect("text");
    for entry in fs::read_dir(root.join("commands")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("UTF-8");
        let word = |word: &str| word[..1].to_uppercase() + &word[1..];
        let verb: String = name.split('_').map(word).collect();
        let is_verb = cli.contains(&format!("\n    {verb}({verb}Args),"));
        assert!(is_verb || ["mod", "shared"].contains(&name), "{}: no verb; helpers lie in shared/", path.display());
    }
}

#[test]
fn unsafe_code_lives_in_ggml_and_kernels_and_around_the_map_of_a_file() {
    for (module, path, text) in files() {
        let allowed = ["ggml", "kernels"].contains(&module.as_str()) || path.ends_with("gguf/reader.rs");
        assert!(allowed || !text.contains("allow(unsafe_code)"), "{}", path.display());
    }
}

const MOST_LINES_OF_A_FILE: usize = 500;
const MOST_LINES_OF_A_FUNCTION: usize = 60;

/// All that is compiled, by its path in the repository.
fn all_code() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = ["src", "tests/it", "build", "examples"].iter().flat_map(|folder| sources(&root.join(folder)));
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8");
            (name.to_owned(), fs::read_to_string(&path).expect("text"))
        })
        .collect()
}

/// The functions of a file as `cargo fmt` lays it out, with their lines.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    (0..lines.len()).filter_map(|at| function(&lines[at..])).collect()
}

/// A function that begins with the first line. The brace that ends it stands where that line does.
fn function<'t>(lines: &[&'t str]) -> Option<(&'t str, usize)> {
    let head = lines[0].trim_start();
    let (before, after) = head.split_once("fn ")?;
    // `pub(in a::b) const unsafe extern "C"`, or less.
    let is_head =
        before.chars().all(|c| c.is_ascii_lowercase() || matches!(c, ' ' | '(' | ')' | ':' | '_' | '"' | 'C'));
    let n_indent = lines[0].len() - head.len();
    let end = lines.iter().position(|line| line.len() == n_indent + 1 && line.ends_with('}'))?;
    let ends_at_once = head.ends_with([';', '}']);
    (is_head && !ends_at_once).then_some((after.split(['(', '<']).next()?, end + 1))
}

#[test]
fn files_and_functions_are_short() {
    for (path, text) in all_code() {
        let n = text.lines().count();
        assert!(n <= MOST_LINES_OF_A_FILE, "{path}: {n} lines");
        for (name, n) in functions(&text) {
            assert!(n <= MOST_LINES_OF_A_FUNCTION, "{path}: {name} has {n} lines");
        }
    }
}
