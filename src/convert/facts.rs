//! Owns the facts of a `config.json`, read as an [`Arch`] says: sizes, settings, the tensors and the keys that follow from
//! them. Refuses numbers that do not fit together and settings that GGUF has no words for.

use std::borrow::Cow;

use serde_json::Value;

use super::Error;
use super::arch::{
    Arch, Bias, Check, Field, Flag, HeadKind, Key, Order, Otherwise, Row, RowKind, Shape, Size, When, Window,
    alternatives,
};
use super::json::{Object, shown};
use super::rope::Rope;
use super::target::{Output, Pick, Picked, Rows, Stride, Target, Targets};
use crate::gguf::Metadata;

/// What a configuration says.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    arch: &'static Arch,
    json: Object<'a>,
    /// By [`Size`]; 0 for those that the architecture has not.
    sizes: [usize; Size::COUNT],
    flags: Vec<(Flag, bool)>,
    rope: Option<Rope<'a>>,
    window: Option<usize>,
}

impl<'a> Facts<'a> {
    pub(super) fn read(arch: &'static Arch, json: Object<'a>, notices: &mut Vec<String>) -> Result<Facts<'a>, Error> {
        let mut sizes = [0; Size::COUNT];
        for field in arch.sizes.iter().flat_map(|fields| fields.iter()) {
            sizes[field.size as usize] = size(field, &json, &sizes)?;
        }
        let flag = |&(flag, key, default): &(Flag, &str, bool)| Ok((flag, json.bool(key)?.unwrap_or(default)));
        let flags = arch.flags.iter().map(flag).collect::<Result<_, Error>>()?;
        let context = sizes[Size::Context as usize];
        let rope = arch.rope.as_ref().map(|ropes| Rope::read(arch.gguf, ropes, &json, context, notices)).transpose()?;
        let mut facts = Facts { arch, json, sizes, flags, rope, window: None };
        arch.checks.iter().try_for_each(|check| facts.check(check))?;
        facts.check_rotation()?;
        facts.read_window(notices)?;
        Ok(facts)
    }

    pub(super) fn size(&self, size: Size) -> usize {
        self.sizes[size as usize]
    }

    fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&(flag, true))
    }

    fn check(&self, check: &Check) -> Result<(), Error> {
        let json = &self.json;
        match *check {
            // Two names of one function.
            Check::Word(key, words) => match json.str(key)?.map(|word| if word == "swish" { "silu" } else { word }) {
                Some(word) if !words.contains(&word) => {
                    Err(json.error(key, alternatives(words), format_args!("`{word}`")))
                }
                _ => Ok(()),
            },
            Check::Set(key, default) => match json.bool(key)?.unwrap_or(default) {
                true => Ok(()),
                false => {
                    let found = if json.has(key) { "false" } else { "no such key" };
                    Err(json.error(key, format_args!("true, as GGUF's `{}` has it", self.arch.gguf), found))
                }
            },
            Check::Number(key, number) => match json.f64(key)? {
                Some(found) if found != number => Err(json.error(key, number, found)),
                _ => Ok(()),
            },
            Check::Unset(key) => match json.get(key) {
                Some(Value::Array(list)) if list.is_empty() => Ok(()),
                Some(value) if *value != false && value.as_f64() != Some(0.0) => {
                    Err(json.error(key, format_args!("none, as GGUF's `{}` has it", self.arch.gguf), shown(value)))
                }
                _ => Ok(()),
            },
            Check::Positive(key) => match json.get(key) {
                Some(value) if value.as_f64().is_some_and(|number| number > 0.0) => Ok(()),
                None if !json.has(key) => Ok(()),
                value => Err(json.error(key, "a number above 0", shown(value.unwrap_or(&Value::Null)))),
            },
            Check::SameAs(key, size, default) => match json.f64(key)?.or(default) {
                Some(found) if found != self.size(size) as f64 => Err(json.error(key, self.size(size), found)),
                _ => Ok(()),
            },
            Check::Every(list, interval, n) => self.check_every(list, interval, n),
            Check::Even(key, size) => match self.size(size) {
                n if n == 0 || !n.is_multiple_of(2) => Err(json.error(key, "an even count", n)),
                _ => Ok(()),
            },
            Check::AtMost(key, size, most) => match (self.size(size), self.size(most)) {
                (n, most) if n > most => Err(json.error(key, format_args!("at most {most}"), n)),
                _ => Ok(()),
            },
            Check::Divides(key, divisor, size, what) => {
                let (n, divisor) = (self.size(size), self.size(divisor));
                match n.is_multiple_of(divisor) {
                    true => Ok(()),
                    false => Err(json.error(key, format_args!("a divisor of the {n} {what}"), divisor)),
                }
            }
        }
    }

    /// Rotation takes two elements together.
    fn check_rotation(&self) -> Result<(), Error> {
        let Some(rope) = self.rope.as_ref().filter(|_| self.arch.rope.as_ref().is_some_and(|r| r.part.is_some()))
        else {
            return Ok(());
        };
        match rope.n_dims(self.size(Size::HeadDim)) {
            n if n == 0 || !n.is_multiple_of(2) => {
                Err(self.json.error("partial_rotary_factor", "an even count of elements of a head", n))
            }
            _ => Ok(()),
        }
    }

    /// Refuses more tensors of one kind, such as those of experts, than the checkpoint has: they are listed one by one.
    pub(super) fn check_members(&self, n_tensors: usize) -> Result<(), Error> {
        let rows = self.arch.layer.iter().flat_map(|rows| rows.iter());
        let present = rows.filter(|row| row.when.iter().all(|&when| self.holds(when)));
        for size in present.filter_map(|row| row.each) {
            let n = self.size(size);
            if n.saturating_mul(self.size(Size::Layers)) > n_tensors {
                let key = self.arch.sizes.iter().flat_map(|fields| fields.iter()).find(|field| field.size == size);
                let expected = format_args!("no more than the {n_tensors} tensors of the checkpoint make");
                return Err(self.json.error(key.map_or("", |field| field.key), expected, n));
            }
        }
        Ok(())
    }

    fn check_every(&self, list: &str, interval: &str, period: usize) -> Result<(), Error> {
        let json = &self.json;
        let Some(marks) = json.array(list)? else {
            return match json.u32(interval)? {
                Some(n) if n as usize != period => Err(json.error(interval, period, n)),
                _ => Ok(()),
            };
        };
        let is_mark = |(il, mark): (usize, &Value)| mark.as_u64() == Some(u64::from(!(il + 1).is_multiple_of(period)));
        match marks.len() >= self.size(Size::Layers) && marks.iter().enumerate().all(is_mark) {
            true => Ok(()),
            false => Err(json.error(
                list,
                format_args!("a 0 for every layer of {period}, and 1 for the others"),
                "another list",
            )),
        }
    }

    /// Which layers have a window, and of which size.
    fn read_window(&mut self, notices: &mut Vec<String>) -> Result<(), Error> {
        let json = self.json.clone();
        // `null` says that attention reaches all.
        let size = |default| if json.has("sliding_window") { json.count("sliding_window") } else { Ok(default) };
        let left_out = match self.arch.window {
            Window::None => None,
            Window::All(default) => {
                // One that no text of the model reaches beyond is none.
                self.window = size(default)?.filter(|&window| window < self.size(Size::Context));
                None
            }
            Window::Upper(default, first) => {
                let is_used = json.bool("use_sliding_window")?.unwrap_or(false) && self.has_window(first)?;
                if is_used { size(Some(default))? } else { None }
            }
            Window::Pattern(period, default) => {
                self.check_pattern(period)?;
                let expected = "a count of at least 1";
                let size = size(Some(default))?.ok_or_else(|| json.error("sliding_window", expected, "null"))?;
                self.window = Some(size);
                None
            }
        };
        if let Some(window) = left_out.filter(|&window| window < self.size(Size::Context)) {
            notices.push(format!(
                "the sliding window of {window} tokens is left out, GGUF's `{}` has none: from that many tokens on, answers \
                 differ from the original's",
                self.arch.gguf
            ));
        }
        Ok(())
    }

    /// Whether some layers have a window: by name, or from one layer on.
    fn has_window(&self, first: usize) -> Result<bool, Error> {
        match self.json.array("layer_types")? {
            Some(types) => Ok(types.iter().any(|kind| *kind == WINDOWED)),
            None => Ok(self.json.u32("max_window_layers")?.map_or(first, |n| n as usize) < self.size(Size::Layers)),
        }
    }

    /// GGUF has no key for the pattern of layers: it must be the architecture's.
    fn check_pattern(&self, period: usize) -> Result<(), Error> {
        let json = &self.json;
        let Some(types) = json.array("layer_types")? else {
            return match json.u32("sliding_window_pattern")? {
                Some(n) if n as usize != period => Err(json.error("sliding_window_pattern", period, n)),
                _ => Ok(()),
            };
        };
        let expected = |il: usize| if (il + 1).is_multiple_of(period) { "full_attention" } else { WINDOWED };
        if types.len() < self.size(Size::Layers) {
            let expected = format!("a kind for each of the {} layers", self.size(Size::Layers));
            return Err(json.error("layer_types", expected, types.len()));
        }
        match types.iter().enumerate().find(|(il, kind)| **kind != expected(*il)) {
            None => Ok(()),
            Some((il, kind)) => {
                let expected = format!("`{}` for layer {il}, in every {period}th `full_attention`", expected(il));
                Err(json.error("layer_types", expected, shown(kind)))
            }
        }
    }

    /// Every tensor by its name in the checkpoint.
    pub(super) fn targets(&self) -> Targets {
        let mut targets = Targets::new();
        self.arch.first.iter().for_each(|row| self.put(row, 0, &mut targets));
        for il in 0..self.size(Size::Layers) {
            self.arch.layer.iter().flat_map(|rows| rows.iter()).for_each(|row| self.put(row, il, &mut targets));
        }
        self.arch.last.iter().for_each(|row| self.put(row, 0, &mut targets));
        targets
    }

    fn put(&self, row: &Row, il: usize, targets: &mut Targets) {
        if !row.when.iter().all(|&when| self.holds(when)) {
            return;
        }
        let name = |name: &str, part: &str| format!("{}.{part}", name.replace("{}", &il.to_string()));
        let from = |part: &str, e: usize| match row.whole {
            Some(_) => row.from.replace("{}", &il.to_string()),
            None => name(&row.from.replace("{e}", &e.to_string()), part),
        };
        let shape = match row.shape {
            Shape::Vector(n) => vec![self.size(n)],
            Shape::Matrix(rows, columns) => vec![self.size(rows), self.size(columns)],
            Shape::Matrices(n, rows, columns) => vec![self.size(n), self.size(rows), self.size(columns)],
        };
        let is_filled = matches!(row.kind, RowKind::OnesUnless(flag) if !self.has(flag));
        let target = |part: &str, shape: &[usize], neutral: f32| {
            let target = match row.kind {
                RowKind::Head if self.has(Flag::Tied) => return Target::dropped(shape),
                RowKind::Head => Target::head(name(row.to, part), shape),
                _ if is_filled => Target::filled(name(row.to, part), shape, neutral),
                _ => Target::new(name(row.to, part), shape),
            };
            target.rows(self.rows(row.order, shape)).plus(row.offset)
        };
        for e in 0..row.each.map_or(1, |n| self.size(n)) {
            let target = target(row.whole.unwrap_or("weight"), &shape, 1.0);
            let target = if row.each.is_some() { target.member(il, e) } else { target };
            targets.entry(from("weight", e)).or_default().push(target);
        }
        let has_bias = match row.bias {
            Bias::No => false,
            Bias::Yes => true,
            Bias::If(flag) => self.has(flag),
        };
        if has_bias {
            // One number for each output.
            let n_out = if row.order == Order::Transposed { shape.len() - 1 } else { 0 };
            targets.entry(from("bias", 0)).or_default().push(target("bias", &shape[n_out..=n_out], 0.0));
        }
    }

    fn holds(&self, when: When) -> bool {
        match when {
            When::Is(flag) => self.has(flag),
            When::Not(flag) => !self.has(flag),
            When::Narrow => self.size(Size::Word) != self.size(Size::Embd),
        }
    }

    fn rows(&self, order: Order, shape: &[usize]) -> Rows {
        let picked = |picks: &[Pick], group, interleaved| {
            let mut all = [Pick::default(); 3];
            all.iter_mut().zip(picks).for_each(|(place, pick)| *place = *pick);
            Rows::Picked(Picked { picks: all, group, interleaved })
        };
        let head = self.size(Size::HeadDim);
        let n_queries = self.size(Size::Heads).checked_div(self.size(Size::KvHeads)).unwrap_or(0) * head;
        let queries = Pick { start: 0, len: n_queries };
        let [keys, values] = [0, head].map(|behind| Pick { start: n_queries + behind, len: head });
        let group = n_queries + 2 * head;
        // Rows of one matrix, or elements of a vector.
        let n_rows = shape.iter().rev().nth(1).or(shape.first()).copied().unwrap_or(0);
        match order {
            Order::Ungrouped => picked(&[queries, keys, values], group, None),
            Order::Of(HeadKind::Q) => picked(&[queries], group, Some(head)),
            Order::Of(HeadKind::K) => picked(&[keys], group, Some(head)),
            Order::Of(HeadKind::V) => picked(&[values], group, None),
            Order::Half(i) => picked(&[Pick { start: i * n_rows / 2, len: n_rows / 2 }], n_rows, None),
            // A bias stays as it is.
            Order::Transposed if shape.len() == 1 => Rows::All,
            Order::Transposed => Rows::Columns(Stride { first: 0, step: 1 }),
            Order::AlternateColumns(first) => Rows::Columns(Stride { first, step: 2 }),
            Order::AlternateElements(first) => Rows::Elements(Stride { first, step: 2 }),
            Order::Same => Rows::All,
            Order::Skip(n) => Rows::Skip(n),
            Order::Interleaved => Rows::Interleaved { head_dim: self.size(Size::HeadDim) },
        }
    }

    /// The name of a tensor in [`Facts::targets`]; `None` for one to pass over: the angles that old checkpoints keep, and what
    /// is no part of the text model.
    pub(super) fn name_of<'n>(&self, name: &'n str) -> Option<Cow<'n, str>> {
        let ends_so = |end: &&str| name.ends_with(*end);
        if (self.rope.is_some() && name.ends_with(".rotary_emb.inv_freq")) || self.arch.passed_over.iter().any(ends_so)
        {
            return None;
        }
        if let Some(part) = &self.arch.part {
            let is_other = part.others.iter().any(|other| name.contains(other));
            return (!is_other).then(|| name.replacen(part.infix, "", 1).into());
        }
        let bare =
            self.arch.lead.and_then(|(lead, start)| name.strip_prefix(lead).filter(|rest| rest.starts_with(start)));
        Some(bare.unwrap_or(name).into())
    }

    /// What the file has besides the checkpoint's tensors; it comes first.
    pub(super) fn extra(&self) -> Result<Vec<Output>, Error> {
        let Some(rope) = &self.rope else { return Ok(Vec::new()) };
        let mut made = Vec::new();
        let factors = rope.llama3_factors(self.size(Size::HeadDim))?;
        made.extend(factors.map(|factors| Output::made("rope_freqs.weight", factors)));
        if let Some([long, short]) = rope.long_and_short_factors(rope.n_dims(self.size(Size::HeadDim)))? {
            made.push(Output::made("rope_factors_long.weight", long));
            made.push(Output::made("rope_factors_short.weight", short));
        }
        Ok(made)
    }

    /// What llama.cpp's converter writes before all others.
    pub(super) fn write_first(&self, meta: &mut Metadata) -> Result<(), Error> {
        self.rope.iter().try_for_each(|rope| rope.write_long_factor(meta))
    }

    pub(super) fn write(&self, file_type: u32, meta: &mut Metadata) -> Result<(), Error> {
        let named = |key: &str| format!("{}.{key}", self.arch.gguf);
        for key in self.arch.keys.iter().flat_map(|keys| keys.iter()) {
            match *key {
                Key::Size(key, size) => drop(meta.insert(named(key), self.size(size) as u32)),
                Key::SizeIf(key, size, from) if self.json.get(from).is_some() => {
                    meta.insert(named(key), self.size(size) as u32);
                }
                Key::SizeIf(..) => {}
                Key::Number(key, from, default) => drop(meta.insert(named(key), self.number(from, default)?)),
                Key::Text(key, text) => drop(meta.insert(named(key), text)),
                Key::CountOrNone(key, from) => drop(meta.insert(named(key), self.json.u32(from)?.unwrap_or(0))),
                Key::AddsBos(adds) => drop(meta.insert("tokenizer.ggml.add_bos_token", adds)),
                Key::RotaryDims => self.rope.iter().for_each(|rope| {
                    meta.insert(named("rope.dimension_count"), rope.n_dims(self.size(Size::HeadDim)) as u32);
                }),
                Key::RopeBase => self.rope.iter().for_each(|rope| rope.write_base(meta)),
                Key::OriginalContext => self.rope.iter().for_each(|rope| rope.write_original_context(meta)),
                Key::Always(key, number) => drop(meta.insert(named(key), number)),
                Key::Word(key, from, default) => drop(meta.insert(named(key), self.json.str(from)?.unwrap_or(default))),
                Key::Flag(key, flag) => drop(meta.insert(named(key), self.has(flag))),
                Key::Rope => self.rope.iter().try_for_each(|rope| rope.write(meta))?,
                Key::UnusualRope => {
                    self.rope.iter().filter(|rope| !rope.is_usual()).try_for_each(|rope| rope.write(meta))?;
                }
                Key::Window => self.window.iter().for_each(|&n| {
                    meta.insert(named("attention.sliding_window"), n as u32);
                }),
                Key::FileType => drop(meta.insert("general.file_type", file_type)),
            }
        }
        Ok(())
    }

    fn number(&self, key: &str, default: f64) -> Result<f32, Error> {
        match self.json.f64(key)?.unwrap_or(default) {
            number if number >= 0.0 && (number as f32).is_finite() => Ok(number as f32),
            number => Err(self.json.error(key, "a number of at least 0", number)),
        }
    }
}

/// A kind of layer in `layer_types`.
const WINDOWED: &str = "sliding_attention";

fn size(field: &Field, json: &Object, sizes: &[usize; Size::COUNT]) -> Result<usize, Error> {
    if let Some((yes, no)) = field.single {
        // The first of them is on where the configuration does not speak of it.
        if json.bool(yes)?.unwrap_or(true) && !json.bool(no)?.unwrap_or(false) {
            return Ok(1);
        }
    }
    let found = if field.key.is_empty() { None } else { json.count(field.key)? };
    let otherwise = if json.has(field.key) { field.null } else { field.absent };
    let of = |size: Size| sizes[size as usize];
    match (found, otherwise) {
        (Some(n), _) => Ok(n),
        (None, Otherwise::Needed) => json.need_count(field.key),
        (None, Otherwise::Is(n)) => Ok(n),
        (None, Otherwise::Same(size)) => Ok(of(size)),
        (None, Otherwise::Product(a, b)) => Ok(of(a) * of(b)),
        (None, Otherwise::Quotient(a, b)) => Ok(of(a) / of(b)),
        (None, Otherwise::Sum(size, n)) => Ok(of(size) + n),
        (None, Otherwise::Times(size, n)) => Ok(of(size) * n),
        (None, Otherwise::Both(a, b)) => Ok(of(a) + of(b)),
    }
}
