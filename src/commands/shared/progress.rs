//! The progress bar of work that is counted.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts up to `n` on stderr, where that is a terminal.
pub(crate) fn bar(n: usize, name: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta}").expect("the template is constant");
    ProgressBar::with_draw_target(Some(n as u64), target).with_style(style).with_message(name.to_owned())
}
