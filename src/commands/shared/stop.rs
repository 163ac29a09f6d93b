//! Finds the strings that end an answer in text that arrives in pieces. Holds back what may become one.

/// Watches a growing text for the first of several strings.
#[derive(Debug)]
pub(crate) struct StopMatcher<'s> {
    stops: &'s [String],
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Text that can be shown.
    Text(String),
    /// The last text before a string that ends the answer.
    Stop(String),
}

impl<'s> StopMatcher<'s> {
    pub(crate) fn new(stops: &'s [String]) -> StopMatcher<'s> {
        StopMatcher { stops, held: String::new() }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Found {
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return Found::Stop(std::mem::take(&mut self.held));
        }
        let safe = self.held.len() - self.longest_beginning();
        Found::Text(self.held.drain(..safe).collect())
    }

    /// The text still held back, when no more comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins one of the strings.
    fn longest_beginning(&self) -> usize {
        self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0)
    }
}

/// Length of the longest proper beginning of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).filter(|&at| text.ends_with(&stop[..at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(stops: &[String], pieces: &[String]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops);
        let mut shown = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Found::Text(text) => shown.push_str(&text),
                Found::Stop(text) => return (shown + &text, true),
            }
        }
        (shown + &matcher.finish(), false)
    }

    #[test]
    fn text_that_may_become_a_stop_is_held_back() {
        let stops = ["User:".to_string()];
        let mut matcher = StopMatcher::new(&stops);
        assert_eq!(matcher.push("yes\nUse"), Found::Text("yes\n".into()));
        assert_eq!(matcher.push("ful "), Found::Text("Useful ".into()));
        assert_eq!(matcher.push("Us"), Found::Text(String::new()));
        assert_eq!(matcher.push("er: hi"), Found::Stop(String::new()));
    }

    proptest! {
        #[test]
        fn pieces_show_what_the_whole_text_shows(
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
            stops in prop::collection::vec("[abé]{1,3}", 0..3),
        ) {
            let whole = pieces.concat();
            let (shown, stopped) = feed(&stops, &pieces);
            match stops.iter().filter_map(|stop| whole.find(stop.as_str())).min() {
                // A longer stop that begins earlier may still have been incomplete when a shorter one was found.
                Some(first) => {
                    prop_assert!(stopped && whole.starts_with(&shown) && shown.len() >= first);
                    prop_assert!(stops.iter().any(|stop| whole[shown.len()..].starts_with(stop.as_str())));
                }
                None => prop_assert_eq!((shown, stopped), (whole, false)),
            }
        }
    }
}
