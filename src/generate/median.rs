//! The median of measured times: what one disturbed measurement does not move.

/// The middle of the values, or of the two in the middle; `None` of no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 9.0, 1.0]), Some(3.0));
        assert_eq!(median([4.0, 1.0]), Some(2.5));
    }
}
