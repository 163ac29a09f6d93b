//! Chat templates and task prompts.
