//! Chat templates and task prompts.

mod bounds;
mod chat;
mod golden;
