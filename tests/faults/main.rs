//! What people bring: files, machines, lines and arguments that nobody here chose. Each module holds one kind, as the program
//! shows itself from outside: never a signal, a panic or a hang, and the right value where there is one.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../fakehub/mod.rs"]
mod fakehub;
#[path = "../fuzz/mod.rs"]
mod fuzz;
#[path = "../support/mod.rs"]
mod support;
mod tiny;
mod watched;

mod arguments;
mod chat;
mod convert;
mod figures;
mod files;
mod rpc;
mod templates;
