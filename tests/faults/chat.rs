//! Lines of a conversation, signals, and what reaches the terminal.
