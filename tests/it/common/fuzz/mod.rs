//! A mutation fuzzer that needs no special compiler: seeds whose fields are known, changed field by field, on all
//! cores. Input `i` of a target depends on `i` alone, so a failure can be repeated.
//!
//! `CURTAIL_FUZZ_INPUTS` is the number of inputs (a short run by default), `CURTAIL_FUZZ_FIRST` the first one:
//!
//! ```sh
//! CURTAIL_FUZZ_INPUTS=10000000 cargo test --release --test fuzz -- --nocapture
//! ```

pub(crate) mod fields;
pub(crate) mod structure;
pub(crate) mod values;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::common::raw::Raw;

/// No input is so hard that it may take this long, on the slowest machine.
const TOO_LONG: Duration = Duration::from_secs(10);

/// What came of each input, and how often.
pub(crate) type Outcomes = BTreeMap<String, u64>;

/// Feeds mutated seeds to `check`, which names what came of the input. A panic in it fails the test and prints the
/// input's number and bytes.
pub(crate) fn run(
    target: &str,
    default_inputs: u64,
    seeds: &[Raw],
    check: impl Fn(&[u8], &mut ChaCha8Rng) -> String + Sync,
) -> Outcomes {
    // A backtrace takes megabytes, which a limit on memory refuses while the standard library holds its lock: then the test
    // would wait for ever.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let n = number("CURTAIL_FUZZ_INPUTS").unwrap_or(default_inputs);
    let first = number("CURTAIL_FUZZ_FIRST").unwrap_or(0);
    let started = Instant::now();
    let outcomes = (first..first + n)
        .into_par_iter()
        .fold(Outcomes::new, |mut outcomes, i| {
            *outcomes.entry(one_input(target, i, seeds, &check)).or_default() += 1;
            outcomes
        })
        .reduce(Outcomes::new, merge);
    let seconds = started.elapsed().as_secs_f64();
    println!("{target}: {n} inputs in {seconds:.1} s ({:.0} a second)", n as f64 / seconds);
    outcomes.iter().for_each(|(name, count)| println!("{count:>10}  {name}"));
    outcomes
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: a number, not {text}")))
}

fn one_input(
    target: &str,
    i: u64,
    seeds: &[Raw],
    check: &(impl Fn(&[u8], &mut ChaCha8Rng) -> String + Sync),
) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(i);
    let input = mutated(seeds, &mut rng);
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| check(&input, &mut rng)));
    assert!(started.elapsed() < TOO_LONG, "{target}: input {i} took {:?}: {}", started.elapsed(), input.escape_ascii());
    outcome.unwrap_or_else(|_| panic!("{target}: input {i} panics: {}", input.escape_ascii()))
}

fn merge(mut a: Outcomes, b: Outcomes) -> Outcomes {
    b.into_iter().for_each(|(name, count)| *a.entry(name).or_default() += count);
    a
}

/// One seed, changed in up to four fields; sometimes also rearranged, sometimes cut or lengthened.
fn mutated(seeds: &[Raw], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let Raw(mut bytes, fields) = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(0..5) {
        if rng.random_ratio(1, 4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        } else {
            let k = rng.random_range(0..fields.len());
            change_field(&mut bytes, fields[k], fields.get(k + 1).copied(), rng);
        }
    }
    if rng.random_ratio(1, 4) {
        bytes = rearranged(&bytes, &fields, seeds, rng);
    }
    if rng.random_ratio(1, 8) {
        bytes.resize(rng.random_range(0..bytes.len() + 64), 0);
    }
    bytes
}

/// Integers get values near a limit, other fields get noise.
fn change_field(bytes: &mut [u8], start: usize, end: Option<usize>, rng: &mut ChaCha8Rng) {
    let file_bytes = bytes.len() as u64;
    let field = &mut bytes[start..end.unwrap_or(file_bytes as usize)];
    match field.len() {
        0 => {}
        1 | 2 | 4 | 8 => {
            let mut old = [0; 8];
            old[..field.len()].copy_from_slice(field);
            let new = interesting(u64::from_le_bytes(old), file_bytes, rng);
            field.copy_from_slice(&new.to_le_bytes()[..field.len()]);
        }
        n => field[rng.random_range(0..n)] = rng.random(),
    }
}

fn interesting(old: u64, file_bytes: u64, rng: &mut ChaCha8Rng) -> u64 {
    match rng.random_range(0..10) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => rng.random_range(0..50),
        3 => 1 << rng.random_range(0..64),
        4 => (1u64 << rng.random_range(0..64)).wrapping_sub(1),
        5 => u64::MAX - rng.random_range(0..64),
        6 => rng.random_range(0..=file_bytes),
        7 => 32 * rng.random_range(0..8),
        8 => old.swap_bytes(),
        _ => rng.random(),
    }
}

/// Drops or repeats a run of fields, or takes one over from another seed.
fn rearranged(bytes: &[u8], fields: &[usize], seeds: &[Raw], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let (from, to) = run_of_fields(bytes, fields, rng);
    let (at, _) = run_of_fields(bytes, fields, rng);
    match rng.random_range(0..4) {
        0 => [&bytes[..from], &bytes[to..]].concat(),
        1 => [&bytes[..at], &bytes[from..to], &bytes[at..]].concat(),
        2 => [&bytes[..from], &bytes[at..]].concat(),
        _ => {
            let Raw(other, fields) = &seeds[rng.random_range(0..seeds.len())];
            let (from, to) = run_of_fields(other, fields, rng);
            [&bytes[..at], &other[from..to], &bytes[at..]].concat()
        }
    }
}

fn run_of_fields(bytes: &[u8], fields: &[usize], rng: &mut ChaCha8Rng) -> (usize, usize) {
    let first = rng.random_range(0..fields.len());
    let behind = first + rng.random_range(0..6);
    (fields[first], fields.get(behind).copied().unwrap_or(bytes.len()))
}
