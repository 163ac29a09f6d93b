//! Text in columns.

use std::fmt::Write as _;

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Align {
    Left,
    Right,
}
/// Adds rows to a text, each column as wide as its widest cell.
pub(crate) fn columns<const N: usize>(text: &mut String, indent: &str, rows: &[[String; N]], align: [Align; N]) {
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let mut line = indent.to_owned();
        for ((cell, &w), a) in row.iter().zip(&widths).zip(align) {
            let _ = if a == Align::Left { write!(line, "{cell:<w$}  ") } else { write!(line, "{cell:>w$}  ") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
