//! The program as who types sees it: piped, on a pseudo-terminal, against a hub on this machine, ended by a signal.

#[path = "../common/mod.rs"]
mod common;

mod instructions;
mod manners;
mod models;
mod pull;
mod quantize;
mod reference;
mod repl;
