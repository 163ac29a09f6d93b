//! Owns the values of a template: Python's, as far as templates meet them. Lists and dicts do not change (the sandbox
//! of transformers forbids it); what does change, such as a namespace, is an object that the rendering owns, so that
//! no value holds itself.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};

use super::ast::{For, Macro};
use super::meter::{self, Charge, HEIGHT};
use super::text::Text;
use super::{Error, Result};

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    /// What is missing, with what is said to whoever uses it.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Text),
    Seq(Rc<Seq>),
    Dict(Rc<Dict>),
    /// A method of a value.
    Method(Rc<(Value, String)>),
    /// A global function, by its name.
    Function(&'static str),
    Macro(Rc<MacroValue>),
    Object(Rc<Object>),
}

/// What a sequence is to Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    List,
    Tuple,
    Range,
    /// The pair of `groupby`, with names.
    Group,
    Keys,
    Values,
    Items,
    /// Gone through once.
    Generator,
}

/// A sequence.
pub(super) struct Seq {
    pub(super) kind: Kind,
    items: Vec<Value>,
    /// How many items a generator has given.
    taken: Cell<usize>,
    height: usize,
    _charge: Charge,
}

/// A dict, in the order of insertion.
pub(super) struct Dict {
    pub(super) entries: IndexMap<Key, (Value, Value)>,
    height: usize,
    charge: Charge,
}

/// A macro with the scope that it was defined in.
pub(super) struct MacroValue {
    pub(super) def: Arc<Macro>,
    pub(super) scope: Weak<Scope>,
}

/// What changes.
pub(super) enum Object {
    Namespace(RefCell<Dict>),
    Cycler { items: RefCell<Vec<Value>>, at: Cell<usize> },
    Joiner { separator: RefCell<Value>, used: Cell<bool> },
    Loop(RefCell<Loop>),
}

/// The state of a loop, as `loop` shows it.
pub(super) struct Loop {
    pub(super) items: Rc<Seq>,
    pub(super) index0: usize,
    pub(super) depth0: usize,
    pub(super) changed: Option<Vec<Value>>,
    /// What `loop(...)` runs again, with the scope around it.
    pub(super) recurse: Option<(Arc<For>, Rc<Scope>)>,
}

/// Names and their values, within others.
pub(super) struct Scope {
    pub(super) names: RefCell<Vec<(Arc<str>, Value)>>,
    pub(super) outer: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn inside(outer: &Rc<Scope>) -> Rc<Scope> {
        Rc::new(Scope { names: RefCell::default(), outer: Some(Rc::clone(outer)) })
    }

    pub(super) fn set(&self, name: &Arc<str>, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => names.push((Arc::clone(name), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some((_, value)) = here.names.borrow().iter().find(|(known, _)| **known == *name) {
                return Some(value.clone());
            }
            scope = here.outer.as_deref();
        }
        None
    }
}

thread_local! {
    /// The objects of this rendering that may hold each other, or themselves: emptied at its end.
    static OBJECTS: RefCell<Vec<(Rc<Object>, Charge)>> = const { RefCell::new(Vec::new()) };
}

/// An object that lives until the end of the rendering.
pub(super) fn object(object: Object) -> Result<Value> {
    let object = Rc::new(object);
    let charge = Charge::of(size_of::<Object>() + 64)?;
    OBJECTS.with_borrow_mut(|objects| objects.push((Rc::clone(&object), charge)));
    Ok(Value::Object(object))
}

/// Takes the objects apart, while all of them are held: no drop goes deep.
pub(super) fn forget_objects() {
    let objects = OBJECTS.with_borrow_mut(std::mem::take);
    for (object, _) in &objects {
        match &**object {
            Object::Namespace(dict) => drop(dict.replace(Dict::empty())),
            Object::Cycler { items, .. } => drop(items.take()),
            Object::Joiner { separator, .. } => drop(separator.replace(Value::None)),
            Object::Loop(_) => {} // its own statement empties it
        }
    }
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Result<Value> {
        Ok(Value::Str(Text::new(text)?))
    }

    pub(super) fn undefined(message: impl Into<String>) -> Value {
        Value::Undefined(message.into().into())
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(super) fn seq(kind: Kind, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Seq(Rc::new(Seq::new(kind, items)?)))
    }

    pub(super) fn list(items: Vec<Value>) -> Result<Value> {
        Value::seq(Kind::List, items)
    }

    pub(super) fn tuple(items: Vec<Value>) -> Result<Value> {
        Value::seq(Kind::Tuple, items)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(*x),
            other => other.as_int().map(|n| n as f64),
        }
    }

    /// Whether a generator stands for it in Python.
    pub(super) fn is_generator(&self) -> bool {
        matches!(self, Value::Seq(seq) if seq.kind == Kind::Generator)
    }

    /// A whole number, as Python's `index` has it.
    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some((*b).into()),
            _ => None,
        }
    }

    /// Whether Python takes it for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(x) => *x != 0.0,
            Value::Str(text) => !text.as_str().is_empty(),
            Value::Seq(seq) => seq.kind == Kind::Generator || !seq.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Object(object) => match &**object {
                Object::Loop(state) => !state.borrow().items.items.is_empty(),
                _ => true,
            },
            Value::Method(_) | Value::Function(_) | Value::Macro(_) => true,
        }
    }

    /// Python's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(text) if text.is_markup() => "Markup",
            Value::Str(_) => "str",
            Value::Seq(seq) => match seq.kind {
                Kind::List => "list",
                Kind::Tuple => "tuple",
                Kind::Range => "range",
                Kind::Group => "_GroupTuple",
                Kind::Keys => "dict_keys",
                Kind::Values => "dict_values",
                Kind::Items => "dict_items",
                Kind::Generator => "generator",
            },
            Value::Dict(_) => "dict",
            Value::Method(_) => "builtin_function_or_method",
            Value::Function(_) => "function",
            Value::Macro(_) => "Macro",
            Value::Object(object) => match &**object {
                Object::Namespace(_) => "Namespace",
                Object::Cycler { .. } => "Cycler",
                Object::Joiner { .. } => "Joiner",
                Object::Loop(_) => "LoopContext",
            },
        }
    }

    /// Whether it is the same, not only equal.
    pub(super) fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(a), Value::Undefined(b)) => Rc::ptr_eq(a, b),
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            // Python keeps one object of each small number and of each constant.
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Str(a), Value::Str(b)) => a.is_same(b) || a.as_str() == b.as_str(),
            (Value::Seq(a), Value::Seq(b)) => Rc::ptr_eq(a, b),
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            (Value::Method(a), Value::Method(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    fn height(&self) -> usize {
        match self {
            Value::Seq(seq) => seq.height,
            Value::Dict(dict) => dict.height,
            Value::Method(method) => method.0.height() + 1,
            _ => 0,
        }
    }
}

/// The height above these values; an error where a drop would walk too deep.
fn height_above<'v>(items: impl Iterator<Item = &'v Value>) -> Result<usize> {
    let height = items.map(Value::height).max().unwrap_or(0) + 1;
    if height > HEIGHT {
        return Err(Error::new(format!("values are nested deeper than {HEIGHT}")));
    }
    Ok(height)
}

impl Seq {
    pub(super) fn new(kind: Kind, items: Vec<Value>) -> Result<Seq> {
        let charge = Charge::of(items.capacity() * size_of::<Value>() + size_of::<Seq>() + 16)?;
        let height = height_above(items.iter())?;
        Ok(Seq { kind, items, taken: Cell::new(0), height, _charge: charge })
    }

    pub(super) fn empty() -> Seq {
        Seq { kind: Kind::List, items: Vec::new(), taken: Cell::new(0), height: 1, _charge: Charge::default() }
    }

    /// What is there to go through: of a generator what it has not given yet.
    pub(super) fn items(&self) -> &[Value] {
        &self.items[self.taken.get()..]
    }

    /// Notes that a generator has given `n` items.
    pub(super) fn take(&self, n: usize) {
        if self.kind == Kind::Generator {
            self.taken.set((self.taken.get() + n).min(self.items.len()));
        }
    }

    /// Whether Python can index it.
    pub(super) fn is_indexed(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Tuple | Kind::Range | Kind::Group)
    }
}

impl Dict {
    pub(super) fn empty() -> Dict {
        Dict { entries: IndexMap::new(), height: 1, charge: Charge::default() }
    }

    pub(super) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        self.height = self.height.max(height_above([&key, &value].into_iter())?);
        let hash = Key::of(&key)?;
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.1 = value; // Python keeps the first of equal keys
            return Ok(());
        }
        self.charge.grow(2 * size_of::<Value>() + size_of::<Key>() + 24)?;
        self.entries.insert(hash, (key, value));
        Ok(())
    }

    pub(super) fn get(&self, key: &Value) -> Result<Option<&Value>> {
        Ok(self.entries.get(&Key::of(key)?).map(|entry| &entry.1))
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        self.entries.get(&StrKey(key)).map(|entry| &entry.1)
    }

    pub(super) fn into_value(self) -> Value {
        Value::Dict(Rc::new(self))
    }
}

/// What a dict finds its entries by: equal numbers of different types are one key.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Key {
    None,
    Undefined,
    Int(i64),
    Float(u64),
    Str(String),
    Tuple(Vec<Key>),
}

impl Key {
    pub(super) fn of(value: &Value) -> Result<Key> {
        Key::within(value, &mut 1_000)
    }

    /// `left` bounds the size: tuples that share their parts grow beyond any memory when each part is a key.
    fn within(value: &Value, left: &mut usize) -> Result<Key> {
        *left = left.checked_sub(1).ok_or_else(|| Error::new("a key of a dict is too large"))?;
        meter::work(1)?;
        match value {
            Value::None => Ok(Key::None),
            Value::Undefined(_) => Ok(Key::Undefined),
            Value::Bool(b) => Ok(Key::Int((*b).into())),
            Value::Int(n) => Ok(Key::Int(*n)),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 9e18 => Ok(Key::Int(*x as i64)),
            Value::Float(x) => Ok(Key::Float(x.to_bits())),
            Value::Str(text) => {
                meter::bytes(text.as_str().len())?;
                Ok(Key::Str(text.as_str().to_owned()))
            }
            Value::Seq(seq) if matches!(seq.kind, Kind::Tuple | Kind::Group) => {
                Ok(Key::Tuple(seq.items().iter().map(|item| Key::within(item, left)).collect::<Result<_>>()?))
            }
            other => Err(Error::new(format!("unhashable type: '{}'", other.type_name()))),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Key::None => 0u8.hash(state),
            Key::Undefined => 1u8.hash(state),
            Key::Int(n) => n.hash(state),
            Key::Float(bits) => bits.hash(state),
            Key::Str(text) => text.as_str().hash(state),
            Key::Tuple(keys) => keys.hash(state),
        }
    }
}

#[derive(Hash)]
struct StrKey<'s>(&'s str);

impl Equivalent<Key> for StrKey<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(key, Key::Str(text) if text == self.0)
    }
}
