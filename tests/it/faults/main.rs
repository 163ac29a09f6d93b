//! What people bring: files, machines, lines and arguments that nobody here chose. Each module holds one kind, as the program
//! shows itself from outside: never a signal, a panic or a hang, and the right value where there is one.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod chat;
mod convert;
mod convert_errors;
mod figures;
mod files;
mod gguf_errors;
mod rpc;
mod templates;

#[test]
fn the_tiny_model_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    common::tiny::Tiny::new().write(&path);
    let model = path.to_str().expect("UTF-8");
    let mut command = common::curtail(&["chat", "-m", model, "-n", "2", "-t", "1", "--temp", "0"]);
    common::watched::run(&mut command, b"hi\n").with(0, &["generated"]);
}
