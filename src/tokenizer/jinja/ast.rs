//! Owns the parsed template. Chains (operators, filters, branches) are lists, so that only nesting makes it deep, and
//! the parser bounds that.

use std::sync::Arc;

/// A statement with its line.
pub(super) struct Stmt {
    pub(super) line: u32,
    pub(super) kind: StmtKind,
}

pub(super) type Body = Vec<Stmt>;

pub(super) enum StmtKind {
    Data(String),
    Print(Expr),
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expr),
    SetBlock(Target, Vec<Post>, Body),
    Macro(Arc<Macro>),
    /// The call, and what its `caller` is.
    Call(Expr, Arc<Macro>),
    Filter(Vec<Post>, Body),
    With(Vec<(Target, Expr)>, Body),
    Scope(Body),
    Block(Body),
    Break,
    Continue,
    /// What can be read but not done: there are no other templates.
    Refuse(&'static str),
}

pub(super) struct For {
    pub(super) line: u32,
    pub(super) target: Target,
    pub(super) iter: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A macro, or the body of a `call` block.
pub(super) struct Macro {
    /// `None` for the body of a `call` block.
    pub(super) name: Option<Arc<str>>,
    pub(super) params: Vec<(Arc<str>, Option<Expr>)>,
    pub(super) body: Body,
    /// Which of Jinja's own parameters the body uses.
    pub(super) uses: Uses,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    pub(super) caller: bool,
    pub(super) kwargs: bool,
    pub(super) varargs: bool,
}

pub(super) enum Target {
    Name(Arc<str>),
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

/// An expression with its line.
pub(super) struct Expr {
    pub(super) line: u32,
    pub(super) kind: ExprKind,
}

pub(super) enum ExprKind {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Sign(bool, Box<Expr>),
    /// `value if test else otherwise`: the value, the test, the other value.
    Choice(Box<(Expr, Expr, Option<Expr>)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Concat(Vec<Expr>),
    Math(Box<Expr>, Vec<(MathOp, Expr)>),
    Compare(Box<Expr>, Vec<(CompareOp, Expr)>),
    /// What stands behind a value, from left to right.
    Post(Box<Expr>, Vec<Post>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MathOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// A step from a value to another.
pub(super) struct Post {
    pub(super) line: u32,
    pub(super) kind: PostKind,
}

pub(super) enum PostKind {
    Attribute(Arc<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Args),
    Filter(String, Args),
    Test { name: String, args: Args, negated: bool },
}

/// The arguments of a call.
#[derive(Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    pub(super) star: Option<Box<Expr>>,
    pub(super) star_star: Option<Box<Expr>>,
}
