//! Owns a machine for the few pickle instructions that a saved state dict needs. It calls nothing: of the names a
//! pickle may mention it knows those of torch's tensors and the ordered dict, and refuses every other one by name.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::element::Element;

/// A tensor as the pickle describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    /// The key of the storage that holds the data.
    pub(super) storage: String,
    /// `None` for elements that are no floating-point numbers.
    pub(super) element: Option<Element>,
    /// Elements of the storage.
    pub(super) storage_len: usize,
    /// Index of the first element in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// What a pickle of a state dict says that it should not: expected and found.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) expected: String,
    pub(super) found: String,
}

/// The tensors of a state dict, by name and in its order.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<(String, Tensor)>, Fault> {
    let mut machine = Machine {
        bytes: pickle,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        left: pickle.len() + SPARE,
    };
    let result = machine.run()?;
    let Node::Dict(pairs) = &machine.nodes[result] else {
        return Err(fault("a dict of tensors", machine.describe(result)));
    };
    let mut tensors = IndexMap::new();
    for &(key, value) in pairs {
        let (name, tensor) = machine.named_tensor(key, value)?;
        if tensors.insert(name, tensor).is_some() {
            return Err(fault("each tensor once", format!("`{name}` twice")));
        }
    }
    Ok(tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect())
}

/// A value by its place among all values of the machine: nothing owns another, so nothing is dropped recursively.
type Ref = usize;

/// Values and references that even the shortest pickle may make.
const SPARE: usize = 1024;

#[derive(Debug)]
enum Node {
    None,
    Bool,
    Int(i64),
    Float,
    Str(String),
    Tuple(Vec<Ref>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    Storage { key: String, element: Option<Element>, len: usize },
    Tensor(Box<Tensor>),
}

impl Node {
    /// How much it holds, in references.
    fn references(&self) -> usize {
        match self {
            Node::Tuple(items) | Node::List(items) => items.len(),
            Node::Dict(pairs) => 2 * pairs.len(),
            Node::Tensor(tensor) => 2 * tensor.shape.len(),
            _ => 0,
        }
    }
}

/// The names that a pickle may mention.
#[derive(Clone, Copy, Debug)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// `None` for elements that are no floating-point numbers.
    Storage(Option<Element>),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
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
        match &mut self.nodes[list] {
            Node::List(all) => all.extend(items),
            _ => return Err(fault("a list to append to", self.describe(list))),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Result<(), Fault> {
        self.charge(items.len())?;
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks();
        match &mut self.nodes[dict] {
            Node::Dict(all) if rest.is_empty() => all.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Node::Dict(_) => return Err(fault("pairs of keys and values", "an odd number of items")),
            _ => return Err(fault("a dict to set items of", self.describe(dict))),
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
            match (&self.nodes[pair[0]], &self.nodes[pair[1]]) {
                (Node::Str(module), Node::Str(name)) => format!("{module}.{name}"),
                _ => return Err(fault("the name of a global", self.describe(pair[1]))),
            }
        };
        let global = known(&name).ok_or_else(|| Fault {
            expected: "only names that a state dict of tensors needs".into(),
            found: format!("the global `{}`", name.escape_default()),
        })?;
        self.push(Node::Global(global))
    }

    /// What is kept outside the pickle: always ("storage", type, key, device, elements).
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let found = |m: &Self| Err(fault("a reference to a storage", m.describe(id)));
        let Node::Tuple(parts) = &self.nodes[id] else { return found(self) };
        let &[kind, class, key, _, len] = parts.as_slice() else { return found(self) };
        match (&self.nodes[kind], &self.nodes[class], &self.nodes[key], &self.nodes[len]) {
            (Node::Str(kind), &Node::Global(Global::Storage(element)), Node::Str(key), &Node::Int(len))
                if kind == "storage" && key.len() <= MAX_KEY_BYTES && len >= 0 =>
            {
                let storage = Node::Storage { key: key.clone(), element, len: len as usize };
                self.push(storage)
            }
            _ => found(self),
        }
    }

    /// What a call would make, for the calls that are known.
    fn reduce(&mut self) -> Result<(), Fault> {
        let pair = self.pop_n(2)?;
        let Node::Tuple(arguments) = &self.nodes[pair[1]] else {
            return Err(fault("a tuple of arguments", self.describe(pair[1])));
        };
        let made = match (&self.nodes[pair[0]], arguments.as_slice()) {
            (Node::Global(Global::OrderedDict), []) => Node::Dict(Vec::new()),
            (Node::Global(Global::OrderedDict), &[list]) => {
                let pairs = self.pairs_of(list)?;
                Node::Dict(pairs)
            }
            (Node::Global(Global::RebuildTensor), &[storage, offset, shape, stride, ..]) => {
                Node::Tensor(Box::new(self.rebuild(storage, offset, shape, stride)?))
            }
            (Node::Global(Global::RebuildParameter), &[tensor, ..]) => match &self.nodes[tensor] {
                Node::Tensor(tensor) => Node::Tensor(tensor.clone()),
                _ => return Err(fault("a tensor as parameter", self.describe(tensor))),
            },
            _ => return Err(fault("a call that makes a tensor or a dict", self.describe(pair[0]))),
        };
        self.push(made)
    }

    fn pairs_of(&self, list: Ref) -> Result<Vec<(Ref, Ref)>, Fault> {
        let wrong = || fault("a list of pairs", self.describe(list));
        let Node::List(items) = &self.nodes[list] else { return Err(wrong()) };
        if items.len() > self.left {
            return Err(fault("no more values than a state dict has", "more: it repeats itself"));
        }
        let pair = |&item: &Ref| match &self.nodes[item] {
            Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err(wrong()),
        };
        items.iter().map(pair).collect()
    }

    fn rebuild(&self, storage: Ref, offset: Ref, shape: Ref, stride: Ref) -> Result<Tensor, Fault> {
        let Node::Storage { key, element, len } = &self.nodes[storage] else {
            return Err(fault("a storage to view", self.describe(storage)));
        };
        let (shape, stride) = (self.counts(shape)?, self.counts(stride)?);
        if shape.len() != stride.len() {
            return Err(fault(format!("{} strides", shape.len()), stride.len().to_string()));
        }
        let offset = self.count(offset)?;
        Ok(Tensor { storage: key.clone(), element: *element, storage_len: *len, offset, shape, stride })
    }

    fn counts(&self, tuple: Ref) -> Result<Vec<usize>, Fault> {
        match &self.nodes[tuple] {
            Node::Tuple(items) if items.len() <= MAX_DIMS => items.iter().map(|&item| self.count(item)).collect(),
            _ => Err(fault(format!("a tuple of at most {MAX_DIMS} counts"), self.describe(tuple))),
        }
    }

    fn count(&self, item: Ref) -> Result<usize, Fault> {
        match self.nodes[item] {
            Node::Int(n) if n >= 0 => Ok(n as usize),
            _ => Err(fault("a count", self.describe(item))),
        }
    }

    /// Attributes of a dict, such as the `_metadata` of a state dict: of no use here.
    fn build(&mut self) -> Result<(), Fault> {
        self.pop()?;
        let object = self.top()?;
        match &self.nodes[object] {
            Node::Dict(_) => Ok(()),
            _ => Err(fault("a dict to set attributes of", self.describe(object))),
        }
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        self.charge(1 + node.references())?;
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
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

    fn named_tensor(&self, key: Ref, value: Ref) -> Result<(&str, Tensor), Fault> {
        match (&self.nodes[key], &self.nodes[value]) {
            (Node::Str(name), Node::Tensor(tensor)) => Ok((name, (**tensor).clone())),
            (Node::Str(name), _) => {
                let name: String = name.chars().take(80).collect();
                Err(fault("a dict of tensors", format!("{} as `{name}`", self.describe(value))))
            }
            _ => Err(fault("the name of a tensor", self.describe(key))),
        }
    }

    fn describe(&self, value: Ref) -> String {
        match &self.nodes[value] {
            Node::None => "None".into(),
            Node::Bool => "a truth value".into(),
            Node::Int(n) => n.to_string(),
            Node::Float => "a floating-point number".into(),
            Node::Str(s) => format!("the string `{}`", s.chars().take(80).collect::<String>().escape_default()),
            Node::Tuple(_) => "a tuple".into(),
            Node::List(_) => "a list".into(),
            Node::Dict(_) => "a dict".into(),
            Node::Global(global) => format!("{global:?}"),
            Node::Storage { .. } => "a storage".into(),
            Node::Tensor(_) => "a tensor".into(),
        }
    }
}

const MAX_KEY_BYTES: usize = 100;
const MAX_NAME_BYTES: usize = 200;
const MAX_DIMS: usize = 8;

fn fault(expected: impl Into<String>, found: impl Into<String>) -> Fault {
    Fault { expected: expected.into(), found: found.into() }
}

fn known(name: &str) -> Option<Global> {
    Some(match name {
        "collections.OrderedDict" => Global::OrderedDict,
        "torch._utils._rebuild_tensor_v2" => Global::RebuildTensor,
        "torch._utils._rebuild_parameter" => Global::RebuildParameter,
        "torch.DoubleStorage" => Global::Storage(Some(Element::F64)),
        "torch.FloatStorage" => Global::Storage(Some(Element::F32)),
        "torch.HalfStorage" => Global::Storage(Some(Element::F16)),
        "torch.BFloat16Storage" => Global::Storage(Some(Element::Bf16)),
        "torch.LongStorage" | "torch.IntStorage" | "torch.ShortStorage" | "torch.CharStorage" | "torch.ByteStorage"
        | "torch.BoolStorage" => Global::Storage(None),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// `GLOBAL module name`.
    fn global(module: &str, name: &str) -> Vec<u8> {
        format!("c{module}\n{name}\n").into_bytes()
    }

    fn found(pickle: &[u8]) -> String {
        state_dict(pickle).unwrap_err().found
    }

    #[test]
    fn a_call_is_refused_by_name() {
        let attack = [b"\x80\x02".to_vec(), global("os", "system"), b"X\x02\0\0\0ls\x85R.".to_vec()].concat();
        assert_eq!(found(&attack), "the global `os.system`");
        let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.";
        assert_eq!(found(stacked), "the global `builtins.eval`");
    }

    #[test]
    fn known_names_are_no_functions_to_call_otherwise() {
        let storage = [global("torch", "FloatStorage"), b")R.".to_vec()].concat();
        assert!(found(&storage).contains("Storage"), "{}", found(&storage));
        assert_eq!(found(b"i.."), "instruction 0x69 at byte 0");
    }

    #[test]
    fn what_ends_early_or_holds_no_tensors_is_refused() {
        assert_eq!(found(b""), "the end after 0");
        assert_eq!(found(b"}(X\x01\0\0\0aK\x01u."), "1 as `a`");
        assert_eq!(found(b"K\x01."), "1");
        assert_eq!(found(b"\x86."), "fewer");
        assert_eq!(found(b"(0."), "none", "a mark is no value");
    }

    #[test]
    fn copies_of_a_list_are_counted() {
        // `OrderedDict(list)` for a list of 2000 pairs, two thousand times: every call would copy the list.
        let pairs = b"K\x01K\x02\x86".repeat(2000);
        let list = [b"](".to_vec(), pairs, b"eq\x00".to_vec()].concat();
        let call = [global("collections", "OrderedDict"), b"q\x01".to_vec()].concat();
        let calls = b"h\x01h\x00\x85R".repeat(2000);
        assert_eq!(found(&[list, call, calls, b".".to_vec()].concat()), "more: it repeats itself");
        // Each of a thousand values is put on the stack again, and all of them into one tuple, by each byte.
        assert_eq!(found(&[b"N".repeat(10), b"(".to_vec(), b"h\x00".repeat(9)].concat()), "the number 0");
        let marks = [b"Nq\x00".to_vec(), b"(h\x00h\x00h\x00t".repeat(1000), b".".to_vec()].concat();
        assert_eq!(found(&marks), "a tuple");
    }

    #[test]
    fn repetition_does_not_multiply() {
        // A tuple of twice the tuple before, a thousand times.
        let doubling = [b"))\x86".to_vec(), b"q\x00h\x00\x86".repeat(1000), b".".to_vec()].concat();
        assert_eq!(found(&doubling), "a tuple");
    }

    /// `OrderedDict` of one tensor [2, 3], as torch writes it.
    fn one_tensor() -> Vec<u8> {
        let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\0\0\0aq\x02".to_vec();
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\0\0\0storageq\x04ctorch\nHalfStorage\nq\x05");
        pickle.extend(b"X\x01\0\0\x000q\x06X\x03\0\0\0cpuq\x07K\x06tq\x08QK\x00K\x02K\x03\x86q\x09K\x03K\x01\x86q\x0a");
        pickle.extend(b"\x89h\x00)Rq\x0btq\x0cRq\x0du}q\x0eX\x09\0\0\0_metadatah\x00)Rsb.");
        pickle
    }

    #[test]
    fn a_state_dict_is_read() {
        let expected = Tensor {
            storage: "0".into(),
            element: Some(Element::F16),
            storage_len: 6,
            offset: 0,
            shape: vec![2, 3],
            stride: vec![3, 1],
        };
        assert_eq!(state_dict(&one_tensor()), Ok(vec![("a".to_owned(), expected)]));
    }

    #[test]
    fn mutated_pickles_never_panic() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let whole = one_tensor();
        let read = (0..200_000).filter(|_| {
            let mut pickle = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..pickle.len());
                match rng.random_range(0..4) {
                    0 => pickle[at] = rng.random(),
                    1 => drop(pickle.remove(at)),
                    2 => pickle.insert(at, rng.random()),
                    // One instruction in the place of another.
                    _ => pickle[at] = *b"(.)0QRabehjlqrstu]}".choose(&mut rng).unwrap_or(&b'.'),
                }
            }
            state_dict(&pickle).is_ok()
        });
        let n = read.count();
        assert!((1000..150_000).contains(&n), "{n} of them were read");
    }

    #[test]
    fn integers_have_signs() {
        assert_eq!(found(b"\x8a\x01\xff."), "-1");
        assert_eq!(found(b"\x8a\x00."), "0");
        assert_eq!(found(b"\x8a\x02\xff\x00."), "255");
        assert_eq!(found(b"\x8a\x09\0\0\0\0\0\0\0\0\0."), "9 bytes");
        assert_eq!(found(b"J\xfe\xff\xff\xff."), "-2");
    }
}
