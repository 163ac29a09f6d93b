//! Values that are more than a string, and their checks.

use std::str::FromStr;

use crate::dtype::DType;

/// A number of tokens, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Count {
    Limit(usize),
    All,
}

impl Count {
    /// The limit as a number: the largest for none.
    pub fn limit(self) -> usize {
        match self {
            Count::Limit(n) => n,
            Count::All => usize::MAX,
        }
    }
}

/// A seed, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub Option<u64>);

/// Shares of a whole, each not negative and one of them above zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares(pub Vec<f64>);

/// The numbers that `8`, `8-32`, `8-32+8` or `8-32*2` stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(pub Vec<usize>);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let Some((first, rest)) = text.split_once('-') else {
            return Ok(Range(vec![number(text)?]));
        };
        let (last, step) = split_step(rest)?;
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err("it ends before it begins".to_owned());
        }
        let mut values = vec![first];
        while let Some(next) = step(values[values.len() - 1]).filter(|&n| n <= last) {
            if next <= values[values.len() - 1] || values.len() == MAX_RANGE {
                return Err(format!("it never ends, or takes more than {MAX_RANGE} steps"));
            }
            values.push(next);
        }
        Ok(Range(values))
    }
}

const MAX_RANGE: usize = 1000;

type Step = Box<dyn Fn(usize) -> Option<usize>>;

fn split_step(rest: &str) -> Result<(&str, Step), String> {
    if let Some((last, by)) = rest.split_once('+') {
        let by = number(by)?;
        return Ok((last, Box::new(move |n| n.checked_add(by))));
    }
    if let Some((last, by)) = rest.split_once('*') {
        let by = number(by)?;
        return Ok((last, Box::new(move |n| n.checked_mul(by))));
    }
    Ok((rest, Box::new(|n| n.checked_add(1))))
}

/// The largest number of tokens, rows, layers or anything else that is counted: what fits in 32 bits with a sign, as in
/// llama.cpp. No machine has room for so many, and two of them can be multiplied.
const MOST: usize = i32::MAX as usize;

/// The most repetitions of a measurement: beyond, they only take time.
const MOST_REPETITIONS: usize = 100_000;

/// A whole number from 0 up.
pub fn number(text: &str) -> Result<usize, String> {
    within(text, 0, MOST)
}

/// A whole number from 1 up.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    within(text, 1, MOST)
}

/// How many times something is measured.
pub(super) fn repetitions(text: &str) -> Result<usize, String> {
    within(text, 1, MOST_REPETITIONS)
}

/// How many threads compute; as many as help are taken.
pub(super) fn threads(text: &str) -> Result<u32, String> {
    positive(text).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let n = text.parse().ok().filter(|n| (least..=most).contains(n));
    n.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

pub(super) fn pair(text: &str) -> Result<(usize, usize), String> {
    let (prompt, generation) = text.split_once(',').ok_or("expected two numbers, as in 512,128")?;
    Ok((positive(prompt)?, positive(generation)?))
}

pub(super) fn dtype(text: &str) -> Result<DType, String> {
    DType::from_name(text).ok_or_else(|| "expected a tensor type (f16, q8_0 ...)".to_owned())
}

/// A number of tokens, where -1 stands for no limit.
pub fn count(text: &str) -> Result<Count, String> {
    if text == "-1" {
        return Ok(Count::All);
    }
    number(text).map(Count::Limit).map_err(|_| format!("expected a whole number from 0 to {MOST}, or -1 for all"))
}

/// A seed, where -1 asks for a drawn one.
pub fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    fixed_seed(text).map(|seed| Seed(Some(seed))).map_err(|why| why + ", or -1 to draw one")
}

/// A seed that is said.
pub(super) fn fixed_seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number from 0 to 2^64 - 1".to_owned())
}

fn float(text: &str, accepts: fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && accepts(*x)).ok_or_else(|| format!("expected {expected}"))
}

/// A share above 0.
pub(super) fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or_else(|| "expected a number above 0".into())
}

/// How many times as fast.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 1.0).ok_or_else(|| "expected a number above 1".into())
}

/// A number from 0 up.
pub fn not_negative(text: &str) -> Result<f32, String> {
    float(text, |x| x >= 0.0, "a number from 0 up")
}

/// A number above 0.
pub fn above_zero(text: &str) -> Result<f32, String> {
    float(text, |x| x > 0.0, "a number above 0")
}

/// A number from 0 to 1.
pub fn fraction(text: &str) -> Result<f32, String> {
    float(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// Shares such as `3,1`.
pub(super) fn fraction_list(text: &str) -> Result<Shares, String> {
    let share = |text: &str| text.trim().parse::<f64>().ok().filter(|share| share.is_finite() && *share >= 0.0);
    let shares: Option<Vec<f64>> = text.split([',', '/']).map(share).collect();
    let total = |shares: &Vec<f64>| shares.iter().sum::<f64>();
    shares
        .filter(|shares| total(shares) > 0.0 && total(shares).is_finite())
        .map(Shares)
        .ok_or_else(|| "expected numbers such as 3,1, none negative and not all zero".to_owned())
}
