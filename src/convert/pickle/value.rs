//! The values that a pickle makes, and what the few calls that it may mention would make of them. Refuses every other call and
//! every other global.

use std::ops::{Index, IndexMut};

use super::{Fault, Tensor, fault};
use crate::convert::element::Element;

/// A value by its place among all values of the machine: nothing owns another, so nothing is dropped recursively.
pub(super) type Ref = usize;

const MAX_KEY_BYTES: usize = 100;
const MAX_DIMS: usize = 8;

#[derive(Debug)]
pub(super) enum Node {
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
    pub(super) fn references(&self) -> usize {
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
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// `None` for elements that are no floating-point numbers.
    Storage(Option<Element>),
}

/// All values of a machine.
#[derive(Debug, Default)]
pub(super) struct Values(Vec<Node>);

impl Index<Ref> for Values {
    type Output = Node;

    fn index(&self, value: Ref) -> &Node {
        &self.0[value]
    }
}

impl IndexMut<Ref> for Values {
    fn index_mut(&mut self, value: Ref) -> &mut Node {
        &mut self.0[value]
    }
}

impl Values {
    pub(super) fn add(&mut self, node: Node) -> Ref {
        self.0.push(node);
        self.0.len() - 1
    }

    /// What is kept outside the pickle: always ("storage", type, key, device, elements).
    pub(super) fn storage(&self, id: Ref) -> Result<Node, Fault> {
        let found = || Err(fault("a reference to a storage", self.describe(id)));
        let Node::Tuple(parts) = &self[id] else { return found() };
        let &[kind, class, key, _, len] = parts.as_slice() else { return found() };
        match (&self[kind], &self[class], &self[key], &self[len]) {
            (Node::Str(kind), &Node::Global(Global::Storage(element)), Node::Str(key), &Node::Int(len))
                if kind == "storage" && key.len() <= MAX_KEY_BYTES && len >= 0 =>
            {
                Ok(Node::Storage { key: key.clone(), element, len: len as usize })
            }
            _ => found(),
        }
    }

    /// What a call would make, for the calls that are known: of up to `most` values.
    pub(super) fn called(&self, function: Ref, arguments: Ref, most: usize) -> Result<Node, Fault> {
        let Node::Tuple(arguments) = &self[arguments] else {
            return Err(fault("a tuple of arguments", self.describe(arguments)));
        };
        Ok(match (&self[function], arguments.as_slice()) {
            (Node::Global(Global::OrderedDict), []) => Node::Dict(Vec::new()),
            (Node::Global(Global::OrderedDict), &[list]) => Node::Dict(self.pairs_of(list, most)?),
            (Node::Global(Global::RebuildTensor), &[storage, offset, shape, stride, ..]) => {
                Node::Tensor(Box::new(self.rebuild(storage, offset, shape, stride)?))
            }
            (Node::Global(Global::RebuildParameter), &[tensor, ..]) => match &self[tensor] {
                Node::Tensor(tensor) => Node::Tensor(tensor.clone()),
                _ => return Err(fault("a tensor as parameter", self.describe(tensor))),
            },
            _ => return Err(fault("a call that makes a tensor or a dict", self.describe(function))),
        })
    }

    fn pairs_of(&self, list: Ref, most: usize) -> Result<Vec<(Ref, Ref)>, Fault> {
        let wrong = || fault("a list of pairs", self.describe(list));
        let Node::List(items) = &self[list] else { return Err(wrong()) };
        if items.len() > most {
            return Err(fault("no more values than a state dict has", "more: it repeats itself"));
        }
        let pair = |&item: &Ref| match &self[item] {
            Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err(wrong()),
        };
        items.iter().map(pair).collect()
    }

    fn rebuild(&self, storage: Ref, offset: Ref, shape: Ref, stride: Ref) -> Result<Tensor, Fault> {
        let Node::Storage { key, element, len } = &self[storage] else {
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
        match &self[tuple] {
            Node::Tuple(items) if items.len() <= MAX_DIMS => items.iter().map(|&item| self.count(item)).collect(),
            _ => Err(fault(format!("a tuple of at most {MAX_DIMS} counts"), self.describe(tuple))),
        }
    }

    fn count(&self, item: Ref) -> Result<usize, Fault> {
        match self[item] {
            Node::Int(n) if n >= 0 => Ok(n as usize),
            _ => Err(fault("a count", self.describe(item))),
        }
    }

    /// An item of a state dict.
    pub(super) fn named_tensor(&self, key: Ref, value: Ref) -> Result<(&str, Tensor), Fault> {
        match (&self[key], &self[value]) {
            (Node::Str(name), Node::Tensor(tensor)) => Ok((name, (**tensor).clone())),
            (Node::Str(name), _) => {
                let name: String = name.chars().take(80).collect();
                Err(fault("a dict of tensors", format!("{} as `{name}`", self.describe(value))))
            }
            _ => Err(fault("the name of a tensor", self.describe(key))),
        }
    }

    /// A value, for messages.
    pub(super) fn describe(&self, value: Ref) -> String {
        match &self[value] {
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

/// The global of this name, if a state dict needs it.
pub(super) fn known(name: &str) -> Option<Global> {
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
