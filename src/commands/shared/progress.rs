//! Progress of long work on stderr. Owns how it looks, and that nothing is drawn where stderr is no terminal. There is no
//! colour in it, whatever `NO_COLOR` says.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts up to `n`.
pub(crate) fn counted(n: usize, name: &str) -> ProgressBar {
    drawn(Some(n as u64), "{msg} {bar:30} {pos}/{len} {eta}").with_message(name.to_owned())
}

/// Counts bytes.
pub(crate) fn bytes(n: u64, name: &str) -> ProgressBar {
    drawn(Some(n), "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}").with_message(name.to_owned())
}

/// Tokens that are read before an answer; only where a user at a terminal waits for one. Their number is told later.
pub(crate) fn tokens() -> ProgressBar {
    if io::stdin().is_terminal() { drawn(None, "reading {pos}/{len} tokens") } else { ProgressBar::hidden() }
}

/// Work whose end nobody knows, told by messages.
pub(crate) fn told() -> ProgressBar {
    drawn(None, "{msg}")
}

fn drawn(n: Option<u64>, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    ProgressBar::with_draw_target(n, target).with_style(style)
}
