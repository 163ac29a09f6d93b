//! Owns a plan as it was written, and what it says to run on a model.

use super::parse::{self, Item, Layer, What};
use super::{Error, Half, LayerStep, MOST_STEPS, number};

/// A plan as it was written.
///
/// `0-20,21:mlp,23-29` lists what runs: layers and ranges, with `:attn` or `:mlp` one half of each, with `x2` twice. `~7` and
/// `~20-22:attn` leave out, `5<>6` swaps. Items that only change, `8-12x2` among them, start from full depth. Lines separate as
/// commas do; `#` begins a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    text: String,
    items: Vec<Item>,
}

impl Layers {
    /// Reads a plan.
    pub fn parse(text: &str) -> Result<Layers, Error> {
        Ok(Layers { text: text.to_owned(), items: parse::items(text, false)? })
    }

    /// Reads a list of what to leave out, as in `12-15,20:attn`: every item stands as if behind a `~`.
    pub fn parse_skips(text: &str) -> Result<Layers, Error> {
        Ok(Layers { text: text.to_owned(), items: parse::items(text, true)? })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What runs, on a model whose full depth is `full`.
    pub fn steps(&self, full: &[LayerStep]) -> Result<Vec<LayerStep>, Error> {
        let lists = self.items.iter().any(Item::lists);
        let mut steps = Vec::new();
        for item in &self.items {
            if let What::Run { first, last, half, times } = &item.what
                && lists
            {
                let run = self.listed(full, first, last, *half)?;
                self.check_room(steps.len(), run.len(), *times, item)?;
                (0..*times).for_each(|_| steps.extend(&run));
            }
        }
        if !lists {
            steps.extend(full);
        }
        for item in &self.items {
            match &item.what {
                What::Run { .. } if lists => {}
                What::Run { first, last, times, .. } => {
                    let n_layers = self.range(full, first, last)?.count();
                    self.check_room(steps.len(), n_layers, times - 1, item)?;
                    self.repeat(&mut steps, full, first, last, *times)?;
                }
                What::Skip { first, last, half } => self.skip(&mut steps, full, first, last, *half)?,
                What::Swap { a, b } => self.swap(&mut steps, full, a, b)?,
            }
        }
        self.finish(steps)
    }

    /// A plan without what is listed ([`Layers::parse_skips`]); what does not run there anyway may be listed too.
    pub fn leave_out(&self, steps: &[LayerStep], full: &[LayerStep]) -> Result<Vec<LayerStep>, Error> {
        let mut rest = steps.to_vec();
        for item in &self.items {
            if let What::Skip { first, last, half } = &item.what {
                for layer in self.range(full, first, last)? {
                    remove(&mut rest, layer, *half);
                }
            }
        }
        // The steps keep their turns: they share the cache rows of the plan they come from.
        if rest.is_empty() { Err(self.runs_nothing()) } else { Ok(rest) }
    }

    fn finish(&self, mut steps: Vec<LayerStep>) -> Result<Vec<LayerStep>, Error> {
        if steps.is_empty() {
            return Err(self.runs_nothing());
        }
        number(&mut steps);
        Ok(steps)
    }

    fn runs_nothing(&self) -> Error {
        let at = self.items.last().map_or(0, |item| item.at);
        parse::error(&self.text, at, "some layers to stay", "none")
    }

    /// Refuses a repetition of so many steps before it is made: its number may be any.
    fn check_room(&self, n_steps: usize, more: usize, times: usize, item: &Item) -> Result<(), Error> {
        let all = n_steps as u128 + more as u128 * times as u128;
        if all <= MOST_STEPS as u128 {
            return Ok(());
        }
        Err(parse::error(&self.text, item.at, format!("at most {MOST_STEPS} steps"), all))
    }

    fn range(&self, full: &[LayerStep], first: &Layer, last: &Layer) -> Result<std::ops::RangeInclusive<usize>, Error> {
        for layer in [first, last] {
            if layer.il >= full.len() {
                let expected = format!("a layer below {}", full.len());
                return Err(parse::error(&self.text, layer.at, expected, layer.il));
            }
        }
        Ok(first.il..=last.il)
    }

    fn listed(
        &self,
        full: &[LayerStep],
        first: &Layer,
        last: &Layer,
        half: Option<Half>,
    ) -> Result<Vec<LayerStep>, Error> {
        let mut run = Vec::new();
        for il in self.range(full, first, last)? {
            let Some(step) = half.map_or(Some(full[il]), |half| full[il].only(half)) else {
                let part = half.map_or("", Half::name);
                let expected = format!("a layer with {part}");
                return Err(parse::error(
                    &self.text,
                    first.at,
                    expected,
                    format!("{il}, which has none in this model"),
                ));
            };
            run.push(step);
        }
        Ok(run)
    }

    /// Behind the block of layers, the same block again.
    fn repeat(
        &self,
        steps: &mut Vec<LayerStep>,
        full: &[LayerStep],
        first: &Layer,
        last: &Layer,
        times: usize,
    ) -> Result<(), Error> {
        let range = self.range(full, first, last)?;
        let start = self.only_place(steps, first)?;
        let block: Vec<LayerStep> = steps[start..].iter().take(range.clone().count()).copied().collect();
        if !block.iter().map(|step| step.il).eq(range) {
            let (expected, found) = ("layers that run one after the other", format!("{}-{}", first.il, last.il));
            return Err(parse::error(&self.text, first.at, expected, found));
        }
        let end = start + block.len();
        steps.splice(end..end, std::iter::repeat_n(block, times - 1).flatten());
        Ok(())
    }

    fn skip(
        &self,
        steps: &mut Vec<LayerStep>,
        full: &[LayerStep],
        first: &Layer,
        last: &Layer,
        half: Option<Half>,
    ) -> Result<(), Error> {
        for il in self.range(full, first, last)? {
            if !remove(steps, il, half) {
                let part = half.map_or_else(String::new, |half| format!(" with {}", half.name()));
                let at = if il == first.il { first.at } else { last.at };
                return Err(parse::error(&self.text, at, format!("a layer that runs{part}"), il));
            }
        }
        Ok(())
    }

    fn swap(&self, steps: &mut [LayerStep], full: &[LayerStep], a: &Layer, b: &Layer) -> Result<(), Error> {
        self.range(full, a, b)?;
        let (i, j) = (self.only_place(steps, a)?, self.only_place(steps, b)?);
        if i == j {
            return Err(parse::error(&self.text, b.at, "another layer", b.il));
        }
        steps.swap(i, j);
        Ok(())
    }

    /// The step that runs a layer, which is one.
    fn only_place(&self, steps: &[LayerStep], layer: &Layer) -> Result<usize, Error> {
        let places: Vec<usize> = (0..steps.len()).filter(|&i| steps[i].il == layer.il).collect();
        match places[..] {
            [place] => Ok(place),
            _ => {
                let found = format!("{}, which runs {} times", layer.il, places.len());
                Err(parse::error(&self.text, layer.at, "a layer that runs once", found))
            }
        }
    }
}

/// Takes a layer, or a half of it, out of all steps; whether there was one.
fn remove(steps: &mut Vec<LayerStep>, il: usize, half: Option<Half>) -> bool {
    let mut found = false;
    steps.retain_mut(|step| {
        if step.il != il {
            return true;
        }
        let rest = half.and_then(|half| step.without(half));
        found |= rest != Some(*step);
        rest.map(|rest| *step = rest).is_some()
    });
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Runs, full, text};
    use super::*;

    fn steps(text: &str) -> Result<String, String> {
        let steps = Layers::parse(text).and_then(|layers| layers.steps(&full(10))).map_err(|e| e.to_string())?;
        let one = |step: &LayerStep| {
            let half = match step.runs {
                Runs::Full => "",
                Runs::Half(Half::Attention) => "a",
                _ => "m",
            };
            format!("{}{half}{}", step.il, "'".repeat(step.turn))
        };
        Ok(steps.iter().map(one).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn plans_say_what_runs() {
        for (text, expected) in [
            ("0-2,3:mlp,5", "0 1 2 3m 5"),
            ("0-2, 4-5:attn # a comment\n9", "0 1 2 4a 5a 9"),
            ("~7", "0 1 2 3 4 5 6 8 9"),
            ("~1-8", "0 9"),
            ("~0-7,~9:attn", "8 9m"),
            ("~1-8,~9:attn,~9:mlp", "0"),
            ("5<>6", "0 1 2 3 4 6 5 7 8 9"),
            ("1<>8,~2-7", "0 8 1 9"),
            ("2-3x2,~5-9", "0 1 2 3 2' 3' 4"),
            ("8x3,~0-7", "8 8' 8'' 9"),
            ("0-1x2,5", "0 1 0' 1' 5"),
            ("0,0:mlp,0", "0 0m' 0'"),
            ("0,1-2:mlpx2", "0 1m 2m 1m 2m"),
            ("0-4,~2,1<>3", "0 3 1 4"),
        ] {
            assert_eq!(steps(text).as_deref(), Ok(expected), "{text}");
        }
    }

    /// The text, the column of the mark, and what the message says.
    #[test]
    fn mistakes_are_pointed_at() {
        for (text, column, says) in [
            ("", 0, "expected a layer, `~` or a range, found the end"),
            ("0-3,", 4, "found the end"),
            ("x", 0, "found `x`"),
            ("1--3", 2, "expected a layer, found `-`"),
            ("3-1", 2, "expected layers in rising order, found 1"),
            ("0-20", 2, "expected a layer below 10, found 20"),
            ("~10:attn", 1, "expected a layer below 10, found 10"),
            ("0-3,5:mpl", 6, "expected `attn` or `mlp`, found `mpl`"),
            ("5<>", 3, "expected a layer, found the end"),
            ("5<6", 2, "expected `>`, found `6`"),
            ("5<>5", 3, "expected another layer, found 5"),
            ("~5,5<>6", 3, "expected a layer that runs once, found 5, which runs 0 times"),
            ("~5,~5:mlp", 4, "expected a layer that runs with mlp, found 5"),
            ("1x1", 2, "expected 2 or more times, found 1"),
            ("1x", 2, "expected 2 or more times, found the end"),
            ("0-9x9999", 0, "expected at most 4096 steps, found 99990"),
            ("0x4097", 0, "expected at most 4096 steps, found 4106"),
            ("0x4294967296", 0, "expected at most 4096 steps, found 4294967305"),
            ("0,1-2x4503599627370494", 2, "found 9007199254740989"),
            ("0:mlpx4294967296", 0, "found 4294967296"),
            ("0-4294967296", 2, "expected a layer below 10, found 4294967296"),
            ("4294967296x2", 0, "expected a layer below 10, found 4294967296"),
            ("~4294967296", 1, "expected a layer below 10, found 4294967296"),
            ("~0-9", 0, "expected some layers to stay, found none"),
            ("0 1", 2, "expected `,` or the end, found `1`"),
            ("é", 0, "found `é`"),
            ("99999999999999999999", 0, "expected a layer, found `99999999999999999999`"),
        ] {
            let message = steps(text).unwrap_err();
            assert!(message.contains(says), "{text}: {message}");
            let lines: Vec<&str> = message.lines().collect();
            assert_eq!(lines[lines.len() - 2], format!("  {text}"), "{message}");
            assert_eq!(lines[lines.len() - 1], format!("  {}^", " ".repeat(column)), "{message}");
        }
        let in_file = steps("# half a layer\n0-3,\n  4:atn").unwrap_err();
        assert_eq!(in_file, "line 3: expected `attn` or `mlp`, found `atn`\n    4:atn\n      ^");
    }

    /// What is wrong in a long line is shown with what stands around it.
    #[test]
    fn long_texts_have_short_messages() {
        let swaps = vec!["0<>1"; 8193].join(",");
        for (text, says) in [
            (swaps.as_str(), "expected at most 8192 items, found more"),
            (&"9".repeat(100_000), "expected a layer, found `9999999999999999999999999999999999999999...`"),
            (&format!("{}5:mpl{}", "0,".repeat(1000), ",1".repeat(1000)), "expected `attn` or `mlp`, found `mpl`"),
            (&format!("0{}x", "é".repeat(500)), "found `é`"),
        ] {
            let message = steps(text).unwrap_err();
            assert!(message.contains(says) && message.len() < 400, "{message}");
            let lines: Vec<&str> = message.lines().collect();
            let (line, mark) = (lines[lines.len() - 2], lines[lines.len() - 1].chars().count() - 1);
            let marked = line.chars().nth(mark);
            let expected = says.rsplit('`').nth(1).and_then(|found| found.chars().next());
            assert!(expected.is_none() || marked == expected, "{message}");
        }
    }

    #[test]
    fn a_list_of_skips_is_left_out_of_any_plan() {
        let list = Layers::parse_skips("1,3-4:attn").unwrap();
        let rest = list.leave_out(&full(6), &full(6)).unwrap();
        assert_eq!(text(&rest, &full(6)), "~1,~3-4:attn");
        let again = list.leave_out(&rest, &full(6)).unwrap();
        assert_eq!(again, rest);
        let error = list.leave_out(&full(3), &full(3)).unwrap_err().to_string();
        assert!(error.ends_with("found 3\n  1,3-4:attn\n    ^"), "{error}");
        assert!(Layers::parse_skips("~1").is_err() && Layers::parse_skips("1<>2").is_err());
        assert!(Layers::parse_skips("0-5").unwrap().leave_out(&full(6), &full(6)).is_err());
    }
}
