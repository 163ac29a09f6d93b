//! Owns numbers as texts: Python's `int()`, `float()` and `round()`, and the number formats of `%` and `format`.

use super::lexer::is_space;

/// Digits after the point that a format may ask for.
pub(super) const MAX_PRECISION: usize = 1_000;

/// `int(text, base)`; `None` where it is no number, or larger than 64 bits.
pub(super) fn parse_int(text: &str, base: i64) -> Option<i64> {
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = |n: u32| match n {
        16 => ["0x", "0X"],
        8 => ["0o", "0O"],
        _ => ["0b", "0B"],
    };
    let strip = |radix: u32| prefix(radix).iter().find_map(|prefix| digits.strip_prefix(prefix));
    let (radix, digits) = match base {
        0 => [16, 8, 2].into_iter().find_map(|radix| Some((radix, strip(radix)?))).unwrap_or((10, digits)),
        2 | 8 | 16 => (base as u32, strip(base as u32).unwrap_or(digits)),
        3..=36 => (base as u32, digits),
        _ => return None,
    };
    let well_formed =
        digits.chars().next().is_some_and(|c| c.is_digit(radix)) && !digits.ends_with('_') && !digits.contains("__");
    if !well_formed {
        return None;
    }
    let digits = digits.replace('_', "");
    i64::from_str_radix(&format!("{}{digits}", if negative { "-" } else { "" }), radix).ok()
}

/// `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let bare = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let is_word = matches!(bare.as_str(), "inf" | "infinity" | "nan");
    let starts =
        bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') && bare.contains(|c: char| c.is_ascii_digit());
    let underscores = !bare.contains("__") && !bare.ends_with('_') && !bare.contains("_.") && !bare.contains("._");
    if !(is_word || (starts && underscores)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// A whole number of a float, cut; `None` beyond 64 bits.
pub(super) fn truncate(x: f64) -> Option<i64> {
    (x.is_finite() && x.abs() < 9.2e18).then_some(x as i64)
}

/// `round(x, digits)` of a float.
pub(super) fn round(x: f64, digits: i64) -> f64 {
    if !x.is_finite() {
        return x;
    }
    if digits >= 0 {
        return format!("{x:.*}", (digits as usize).min(MAX_PRECISION)).parse().unwrap_or(x);
    }
    let unit = 10f64.powi((-digits).min(400) as i32);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.is_finite() { rounded } else { 0.0 }
}

/// `round(n, digits)` of a whole number.
pub(super) fn round_int(n: i64, digits: i64) -> i64 {
    let unit = match u32::try_from(-digits) {
        Ok(places) if digits < 0 => 10i128.checked_pow(places).unwrap_or(i128::MAX),
        _ => return n,
    };
    let (quotient, rest) = (i128::from(n).div_euclid(unit), i128::from(n).rem_euclid(unit));
    let up = rest * 2 > unit || (rest * 2 == unit && quotient % 2 != 0);
    i64::try_from((quotient + i128::from(up)) * unit).unwrap_or(n)
}

/// A number without its sign in the way of `e`, `f`, `g` (upper case too) or `%`.
pub(super) fn format_float(x: f64, kind: char, precision: usize, alternate: bool) -> String {
    let x = x.abs();
    let upper = kind.is_ascii_uppercase();
    let text = if x.is_infinite() {
        "inf".to_owned()
    } else if x.is_nan() {
        "nan".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'e' => exponent(&format!("{x:.precision$e}")),
            'g' => general(x, precision.max(1), alternate),
            '%' => format!("{:.precision$}%", x * 100.0),
            _ => format!("{x:.precision$}"),
        }
    };
    if upper { text.to_uppercase() } else { text }
}

/// Rust's exponent as C writes it: with a sign and two digits.
fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn general(x: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{x:.*e}", precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let without_zeros = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= precision as i64 {
        let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        return exponent(&format!("{}e{power}", without_zeros(digits)));
    }
    without_zeros(&format!("{x:.*}", (precision as i64 - 1 - power).max(0) as usize))
}

/// Separators between groups of digits before the point.
pub(super) fn grouped(digits: &str, separator: char, group: usize) -> String {
    let (whole, rest) = digits.split_at(digits.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(digits.len()));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(group) {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}
