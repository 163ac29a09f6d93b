//! Owns what runs: the steps of a way through the layers, and how they are written as text. Knows no model, only how many
//! layers there are; refuses plans that run nothing.
//!
//! ```
//! use curtail::plan::{Layers, full};
//!
//! let steps = Layers::parse("~7,5<>6,~20:attn")?.steps(&full(30))?;
//! assert_eq!(steps.len(), 29);
//! assert_eq!((steps[5].il, steps[6].il, steps[7].il), (6, 5, 8));
//! assert!(!steps[19].attention && steps[19].feed_forward);
//! let wrong = Layers::parse("0-20,2l:mlp").unwrap_err();
//! assert_eq!(wrong.to_string(), "expected `,` or the end, found `l`\n  0-20,2l:mlp\n        ^");
//! # Ok::<(), curtail::plan::Error>(())
//! ```

mod parse;
mod print;

pub use print::text;

use parse::{Item, Layer, What};

/// One step of a plan: which layer's weights, and which of its two halves run. With neither, the layer's keys and values are
/// written, from the hidden state as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerStep {
    /// The layer.
    pub il: usize,
    /// How many earlier steps of the plan run the same layer's attention: each of them has cache rows of its own.
    pub turn: usize,
    /// Whether its attention runs.
    pub attention: bool,
    /// Whether its feed-forward network runs.
    pub feed_forward: bool,
}

impl LayerStep {
    /// The whole layer `il`.
    pub fn whole(il: usize) -> LayerStep {
        LayerStep { il, turn: 0, attention: true, feed_forward: true }
    }

    /// Only the keys and values of this step.
    pub fn keys(self) -> LayerStep {
        LayerStep { attention: false, feed_forward: false, ..self }
    }

    /// Only this half of the step.
    pub fn only(self, half: Half) -> LayerStep {
        self.without(half.other())
    }

    /// The step without a half.
    pub fn without(self, half: Half) -> LayerStep {
        match half {
            Half::Attention => LayerStep { attention: false, ..self },
            Half::FeedForward => LayerStep { feed_forward: false, ..self },
        }
    }

    /// Whether a half runs.
    pub fn has(&self, half: Half) -> bool {
        match half {
            Half::Attention => self.attention,
            Half::FeedForward => self.feed_forward,
        }
    }

    /// Whether nothing but keys and values comes of it.
    pub fn is_empty(&self) -> bool {
        !self.attention && !self.feed_forward
    }
}

/// The two parts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// `attn`
    Attention,
    /// `mlp`
    FeedForward,
}

impl Half {
    /// As plans write it.
    pub fn name(self) -> &'static str {
        match self {
            Half::Attention => "attn",
            Half::FeedForward => "mlp",
        }
    }

    /// The other one.
    pub fn other(self) -> Half {
        match self {
            Half::Attention => Half::FeedForward,
            Half::FeedForward => Half::Attention,
        }
    }
}

/// Every layer of a model of `n_layer`, in order: the plan where nobody asks for another.
pub fn full(n_layer: usize) -> Vec<LayerStep> {
    (0..n_layer).map(LayerStep::whole).collect()
}

/// Gives every step its turn.
pub fn number(steps: &mut [LayerStep]) {
    for i in 0..steps.len() {
        let il = steps[i].il;
        steps[i].turn = steps[..i].iter().filter(|step| step.il == il && step.attention).count();
    }
}

/// How many of the model's layers steps are worth, on a model whose full depth is `full`: a whole layer counts 1, one of its
/// two halves 0.5, its keys alone 0. Full depth is so the number of layers, whatever halves a model lacks. All that is said of
/// layers per token is counted by this.
pub fn layers_of(steps: &[LayerStep], full: &[LayerStep]) -> f64 {
    let halves = [Half::Attention, Half::FeedForward];
    let of_step = |step: &LayerStep| {
        let own = |half: &Half| full.get(step.il).is_none_or(|whole| whole.has(*half));
        let (all, run) = halves
            .iter()
            .filter(|half| own(half))
            .fold((0u32, 0u32), |(all, run), half| (all + 1, run + u32::from(step.has(*half))));
        f64::from(run) / f64::from(all.max(1))
    };
    // Halves are exact in binary, and so is every sum of them.
    steps.iter().map(of_step).sum()
}

/// How deep in a plan a state is that has been through the first `n_layers` layers: behind the last step that runs one of
/// them. `None` where nothing, or nothing else, runs.
pub fn depth_after(steps: &[LayerStep], n_layers: usize) -> Option<usize> {
    let depth = steps.iter().rposition(|step| step.il < n_layers)? + 1;
    (depth < steps.len()).then_some(depth)
}

/// The number of layers that a state has been through at a depth of a plan: the inverse of [`depth_after`] for plans in rising
/// order.
pub fn layers_before(steps: &[LayerStep], depth: usize) -> usize {
    steps[..depth].iter().map(|step| step.il + 1).max().unwrap_or(0)
}

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

/// A plan that cannot be: what is wrong, and the place in its line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}expected {expected}, found {found}\n  {line}\n  {:>width$}", self.place(), "^", width = .column + 1)]
pub struct Error {
    line: String,
    /// From 1; 0 where the plan is one line.
    line_no: usize,
    column: usize,
    expected: String,
    found: String,
}

/// More steps than this are a slip of the finger.
const MOST_STEPS: usize = 4096;

/// Items that a plan may have: each may name a half of a step, and is looked for among all steps.
const MOST_ITEMS: usize = 2 * MOST_STEPS;

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
            let step = half.map_or(full[il], |half| full[il].only(half));
            if step.is_empty() {
                let part = half.map_or("", Half::name);
                let expected = format!("a layer with {part}");
                return Err(parse::error(
                    &self.text,
                    first.at,
                    expected,
                    format!("{il}, which has none in this model"),
                ));
            }
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
    for step in steps.iter_mut().filter(|step| step.il == il) {
        let rest = half.map_or(step.keys(), |half| step.without(half));
        found |= rest != *step;
        *step = rest;
    }
    steps.retain(|step| !step.is_empty());
    found
}

impl Error {
    fn place(&self) -> String {
        if self.line_no > 0 { format!("line {}: ", self.line_no) } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Result<String, String> {
        let steps = Layers::parse(text).and_then(|layers| layers.steps(&full(10))).map_err(|e| e.to_string())?;
        let one = |step: &LayerStep| {
            let half = match (step.attention, step.feed_forward) {
                (true, true) => "",
                (true, false) => "a",
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

    #[test]
    fn steps_are_worth_layers() {
        let worth =
            |text: &str, full: &[LayerStep]| layers_of(&Layers::parse(text).unwrap().steps(full).unwrap(), full);
        for (text, layers) in [("0-9", 10.0), ("~3-5", 7.0), ("~0-4:attn", 7.5), ("2-3x2", 12.0), ("0,0:mlp", 1.5)] {
            assert_eq!(worth(text, &full(10)), layers, "{text}");
        }
        let mut pruned = full(4);
        pruned[2].attention = false;
        assert_eq!((layers_of(&pruned, &pruned), worth("~2", &pruned), worth("~1:mlp", &pruned)), (4.0, 3.0, 3.5));
        assert_eq!(layers_of(&[LayerStep::whole(1).keys()], &full(4)), 0.0);
    }

    #[test]
    fn a_depth_belongs_to_a_number_of_layers() {
        let steps = Layers::parse("~3-5").unwrap().steps(&full(10)).unwrap();
        let depths: Vec<Option<usize>> = (0..=10).map(|n| depth_after(&steps, n)).collect();
        let expected = [None, Some(1), Some(2), Some(3), Some(3), Some(3), Some(3), Some(4), Some(5), Some(6), None];
        assert_eq!(depths, expected);
        assert_eq!((1..=7).map(|depth| layers_before(&steps, depth)).collect::<Vec<_>>(), [1, 2, 3, 7, 8, 9, 10]);
    }
}
