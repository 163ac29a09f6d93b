//! The machine: instructions, stack and memo. Owns the count of what a pickle may make, which bounds time and memory.

use std::collections::HashMap;

use super::value::{Node, Ref, Values, known};
use super::{Fault, fault};

/// A name of a global, at most.
const MAX_NAME_BYTES: usize = 200;

/// Values and references that even the shortest pickle may make.
const SPARE: usize = 1024;

/// Runs a pickle; gives all values that it made, and the one that it stands for.
pub(super) fn run(pickle: &[u8]) -> Result<(Values, Ref), Fault> {
    let mut machine = Machine {
        bytes: pickle,
        at: 0,
        values: Values::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        left: pickle.len() + SPARE,
    };
    let result = machine.run()?;
    Ok((machine.values, result))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Values,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
    /// Values and references that it may still make. A state dict makes fewer than it has bytes; a pickle that copies a list
    /// over and over makes as many as the square of that.
    left: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Ref, Fault> {
        loop {
            let [op] = self.take()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    /// One instruction; names as in Python's `pickletools`.
    fn step(&mut self, op: u8) -> Result<(), Fault> {
        match op {
            0x80 => self.take::<1>().map(|_| ()),                          // PROTO
            0x95 => self.take::<8>().map(|_| ()),                          // FRAME
            b'N' => self.push(Node::None),                                 // NONE
            0x88 | 0x89 => self.push(Node::Bool),                          // NEWTRUE, NEWFALSE
            b'G' => self.take::<8>().and_then(|_| self.push(Node::Float)), // BINFLOAT
            b'K' | b'M' | b'J' | 0x8a => self.integer(op),
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.string(op),
            b')' => self.push(Node::Tuple(Vec::new())), // EMPTY_TUPLE
            0x85..=0x87 => self.tuple_of(usize::from(op - 0x84)), // TUPLE1, TUPLE2, TUPLE3
            b'(' => self.mark(),                        // MARK
            b't' => self.pop_to_mark().and_then(|items| self.push(Node::Tuple(items))), // TUPLE
            b']' => self.push(Node::List(Vec::new())),  // EMPTY_LIST
            b'l' => self.pop_to_mark().and_then(|items| self.push(Node::List(items))), // LIST
            b'}' => self.push(Node::Dict(Vec::new())),  // EMPTY_DICT
            b'a' => self.pop().and_then(|item| self.append(vec![item])), // APPEND
            b'e' => self.pop_to_mark().and_then(|items| self.append(items)), // APPENDS
            b's' => self.pop_n(2).and_then(|pair| self.set_items(&pair)), // SETITEM
            b'u' => self.pop_to_mark().and_then(|items| self.set_items(&items)), // SETITEMS
            b'd' => self.pop_to_mark().and_then(|items| {
                self.push(Node::Dict(Vec::new()))?; // DICT
                self.set_items(&items)
            }),
            b'q' | b'r' | 0x94 => self.memoize(op),
            b'h' | b'j' => self.recall(op),
            b'c' | 0x93 => self.global(op),
            b'Q' => self.persistent(),      // BINPERSID
            b'R' => self.reduce(),          // REDUCE
            b'b' => self.build(),           // BUILD
            b'0' => self.pop().map(|_| ()), // POP
            _ => Err(fault(
                "an instruction that a state dict needs",
                format!("instruction {op:#04x} at byte {}", self.at - 1),
            )),
        }
    }

    fn mark(&mut self) -> Result<(), Fault> {
        self.charge(1)?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn integer(&mut self, op: u8) -> Result<(), Fault> {
        let value = match op {
            b'K' => i64::from(u8::from_le_bytes(self.take()?)),  // BININT1
            b'M' => i64::from(u16::from_le_bytes(self.take()?)), // BININT2
            b'J' => i64::from(i32::from_le_bytes(self.take()?)), // BININT
            _ => self.long()?,                                   // LONG1
        };
        self.push(Node::Int(value))
    }

    /// Up to eight bytes, two's complement, the lowest first.
    fn long(&mut self) -> Result<i64, Fault> {
        let [n] = self.take()?;
        let bytes = self.take_bytes(usize::from(n))?;
        if bytes.len() > 8 {
            return Err(fault("an integer of at most 8 bytes", format!("{n} bytes")));
        }
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
        let mut all = [sign; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(all))
    }

    fn string(&mut self, op: u8) -> Result<(), Fault> {
        let n = match op {
            0x8c | b'U' => u64::from(u8::from_le_bytes(self.take()?)), // SHORT_BINUNICODE, SHORT_BINSTRING
            0x8d => u64::from_le_bytes(self.take()?),                  // BINUNICODE8
            _ => u64::from(u32::from_le_bytes(self.take()?)),          // BINUNICODE, BINSTRING
        };
        let bytes = self.take_bytes(usize::try_from(n).unwrap_or(usize::MAX))?;
        let text = std::str::from_utf8(bytes).map_err(|_| fault("a string of valid UTF-8", "an invalid sequence"))?;
        let text = text.to_owned();
        self.push(Node::Str(text))
    }

    fn tuple_of(&mut self, n: usize) -> Result<(), Fault> {
        let items = self.pop_n(n)?;
        self.push(Node::Tuple(items))
    }

    fn append(&mut self, items: Vec<Ref>) -> Result<(), Fault> {
        self.charge(items.len())?;
        let list = self.top()?;
        match &mut self.values[list] {
            Node::List(all) => all.extend(items),
            _ => return Err(fault("a list to append to", self.values.describe(list))),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Result<(), Fault> {
        self.charge(items.len())?;
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks();
        match &mut self.values[dict] {
            Node::Dict(all) if rest.is_empty() => all.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Node::Dict(_) => return Err(fault("pairs of keys and values", "an odd number of items")),
            _ => return Err(fault("a dict to set items of", self.values.describe(dict))),
        }
        Ok(())
    }

    fn memoize(&mut self, op: u8) -> Result<(), Fault> {
        let key = match op {
            b'q' => u32::from(u8::from_le_bytes(self.take()?)), // BINPUT
            b'r' => u32::from_le_bytes(self.take()?),           // LONG_BINPUT
            _ => self.memo.len() as u32,                        // MEMOIZE
        };
        let top = self.top()?;
        self.charge(1)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Result<(), Fault> {
        let key = match op {
            b'h' => u32::from(u8::from_le_bytes(self.take()?)), // BINGET
            _ => u32::from_le_bytes(self.take()?),              // LONG_BINGET
        };
        let value =
            self.memo.get(&key).ok_or_else(|| fault("a value that was kept before", format!("the number {key}")))?;
        let value = *value;
        self.charge(1)?;
        self.stack.push(value);
        Ok(())
    }

    fn global(&mut self, op: u8) -> Result<(), Fault> {
        let name = if op == b'c' {
            format!("{}.{}", self.line()?, self.line()?) // GLOBAL
        } else {
            let pair = self.pop_n(2)?; // STACK_GLOBAL
            match (&self.values[pair[0]], &self.values[pair[1]]) {
                (Node::Str(module), Node::Str(name)) => format!("{module}.{name}"),
                _ => return Err(fault("the name of a global", self.values.describe(pair[1]))),
            }
        };
        let global = known(&name).ok_or_else(|| Fault {
            expected: "only names that a state dict of tensors needs".into(),
            found: format!("the global `{}`", name.escape_default()),
        })?;
        self.push(Node::Global(global))
    }

    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let storage = self.values.storage(id)?;
        self.push(storage)
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let pair = self.pop_n(2)?;
        let made = self.values.called(pair[0], pair[1], self.left)?;
        self.push(made)
    }

    /// Attributes of a dict, such as the `_metadata` of a state dict: of no use here.
    fn build(&mut self) -> Result<(), Fault> {
        self.pop()?;
        let object = self.top()?;
        match &self.values[object] {
            Node::Dict(_) => Ok(()),
            _ => Err(fault("a dict to set attributes of", self.values.describe(object))),
        }
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        self.charge(1 + node.references())?;
        self.stack.push(self.values.add(node));
        Ok(())
    }

    /// Refuses to make more than a state dict of as many bytes would.
    fn charge(&mut self, n: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(n).ok_or_else(|| {
            let expected = format!("no more values than the {} bytes of a state dict describe", self.bytes.len());
            fault(expected, "more: it repeats itself")
        })?;
        Ok(())
    }

    fn top(&self) -> Result<Ref, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&top) if self.stack.len() > floor => Ok(top),
            _ => Err(fault("a value on the stack", "none")),
        }
    }

    fn pop(&mut self) -> Result<Ref, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<Ref>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(fault(format!("{n} values on the stack"), "fewer")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Ref>, Fault> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(fault("a mark on the stack", "none")),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.take_bytes(N)?;
        Ok(bytes.try_into().expect("take_bytes returns as many bytes as asked for"))
    }

    fn take_bytes(&mut self, n: usize) -> Result<&[u8], Fault> {
        let rest = &self.bytes[self.at..];
        let Some(bytes) = rest.get(..n) else {
            return Err(fault(format!("{n} bytes at byte {}", self.at), format!("the end after {}", rest.len())));
        };
        self.at += n;
        Ok(bytes)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.at..];
        let Some(n) = rest.iter().take(MAX_NAME_BYTES).position(|&b| b == b'\n') else {
            return Err(fault("a name that ends with its line", "none"));
        };
        self.at += n + 1;
        Ok(String::from_utf8_lossy(&rest[..n]).into_owned())
    }
}
