//! Owns the run of a template: scopes, statements, calls. Each step asks the meter first.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::args::Given;
use super::ast::{Args, Body, CompareOp, Expr, ExprKind, For, Post, PostKind, Stmt, StmtKind, Target};
use super::text::Builder;
use super::value::{Dict, Loop, MacroValue, Object, Scope, Seq, Value};
use super::{Error, Result, access, filters, meter, methods, ops, predicates, repr};

/// What a statement does to the loop around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

/// One run.
pub(super) struct Run {
    pub(super) root: Rc<Scope>,
    /// Whether a value that is missing is an error wherever it is used.
    pub(super) strict: bool,
}

impl Run {
    pub(super) fn body(&self, body: &Body, scope: &Rc<Scope>, out: &mut Builder) -> Result<Flow> {
        let _level = meter::deeper()?;
        for statement in body {
            let flow = self.statement(statement, scope, out).map_err(|e| e.at(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// The text that a body writes.
    fn captured(&self, body: &Body, scope: &Rc<Scope>) -> Result<Value> {
        let mut out = Builder::new();
        self.body(body, scope, &mut out)?;
        Ok(Value::Str(out.finish()?))
    }

    fn statement(&self, statement: &Stmt, scope: &Rc<Scope>, out: &mut Builder) -> Result<Flow> {
        meter::work(1)?;
        match &statement.kind {
            StmtKind::Data(text) => out.push_str(text)?,
            StmtKind::Print(value) => {
                let value = self.checked(value, scope)?;
                repr::write_str(out, &value)?;
            }
            StmtKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.checked(test, scope)?.is_true() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            StmtKind::For(def) => {
                let items = access::iterate(&self.checked(&def.iter, scope)?)?;
                return self.for_(def, items, scope, 0, out);
            }
            StmtKind::Set(target, value) => {
                let value = self.value(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let inner = Scope::inside(scope);
                let value = self.captured(body, &inner)?;
                let value = self.steps(value, filters, &inner)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::Macro(def) => {
                let value = MacroValue { def: Arc::clone(def), scope: Rc::downgrade(scope) };
                if let Some(name) = &def.name {
                    scope.set(name, Value::Macro(Rc::new(value)));
                }
            }
            StmtKind::Call(call, def) => {
                let caller = MacroValue { def: Arc::clone(def), scope: Rc::downgrade(scope) };
                let value = self.call_with_caller(call, Value::Macro(Rc::new(caller)), scope)?;
                repr::write_str(out, &value)?;
            }
            StmtKind::Filter(filters, body) => {
                let inner = Scope::inside(scope);
                let value = self.captured(body, &inner)?;
                repr::write_str(out, &self.steps(value, filters, &inner)?)?;
            }
            StmtKind::With(values, body) => return self.with(values, body, scope, out),
            StmtKind::Scope(body) => return self.body(body, &Scope::inside(scope), out),
            StmtKind::Block(body) => return self.body(body, &Scope::inside(&self.root), out),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
            StmtKind::Refuse(why) => return Err(Error::new(*why)),
        }
        Ok(Flow::Next)
    }

    fn with(&self, values: &[(Target, Expr)], body: &Body, scope: &Rc<Scope>, out: &mut Builder) -> Result<Flow> {
        let inner = Scope::inside(scope);
        for (target, value) in values {
            let value = self.value(value, scope)?;
            self.assign(target, value, &inner)?;
        }
        self.body(body, &inner, out)
    }

    fn for_(
        &self,
        def: &Arc<For>,
        items: Rc<Seq>,
        scope: &Rc<Scope>,
        depth0: usize,
        out: &mut Builder,
    ) -> Result<Flow> {
        let items = match &def.test {
            None => items,
            Some(test) => {
                let mut kept = Vec::new();
                for item in items.items() {
                    let inner = Scope::inside(scope);
                    self.assign(&def.target, item.clone(), &inner)?;
                    if self.checked(test, &inner)?.is_true() {
                        kept.push(item.clone());
                    }
                }
                Rc::new(Seq::new(super::value::Kind::List, kept)?)
            }
        };
        let recurse = def.recursive.then(|| (Arc::clone(def), Rc::clone(scope)));
        let state = Loop { items: Rc::clone(&items), index0: 0, depth0, changed: None, recurse };
        let state = Rc::new(Object::Loop(RefCell::new(state)));
        let flow = self.iterations(def, &items, &state, scope, out);
        // Who still holds the loop holds no items: loops that held loops would be dropped by recursion.
        if let Object::Loop(state) = &*state {
            let mut state = state.borrow_mut();
            (state.items, state.changed, state.recurse) = (Rc::new(Seq::empty()), None, None);
        }
        match flow? {
            true => Ok(Flow::Next),
            // As in Jinja2, also behind a loop that was left before its first item was done.
            false => self.body(&def.otherwise, scope, out),
        }
    }

    /// Runs the body for each item. Whether one of them got to its end.
    fn iterations(
        &self,
        def: &For,
        items: &Seq,
        state: &Rc<Object>,
        scope: &Rc<Scope>,
        out: &mut Builder,
    ) -> Result<bool> {
        let loop_name: Arc<str> = "loop".into();
        let mut done = false;
        for (i, item) in items.items().iter().enumerate() {
            if let Object::Loop(state) = &**state {
                state.borrow_mut().index0 = i;
            }
            let inner = Scope::inside(scope);
            inner.set(&loop_name, Value::Object(Rc::clone(state)));
            self.assign(&def.target, item.clone(), &inner).map_err(|e| e.at(def.line))?;
            match self.body(&def.body, &inner, out)? {
                Flow::Next => done = true,
                Flow::Break => break,
                Flow::Continue => {}
            }
        }
        Ok(done)
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        meter::work(1)?;
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => match scope.get(name) {
                Some(Value::Object(object)) if matches!(&*object, Object::Namespace(_)) => {
                    methods::check_namespace_name(attribute)?;
                    if let Object::Namespace(dict) = &*object {
                        dict.borrow_mut().insert(Value::text(&**attribute)?, value)?;
                    }
                }
                _ => return Err(Error::new("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => {
                let items = access::iterate(&value)?;
                let (expected, found) = (targets.len(), items.items().len());
                if found != expected {
                    let what = if found < expected { "not enough" } else { "too many" };
                    return Err(Error::new(format!("{what} values to unpack (expected {expected}, got {found})")));
                }
                for (target, item) in targets.iter().zip(items.items()) {
                    self.assign(target, item.clone(), scope)?;
                }
            }
        }
        Ok(())
    }

    /// A value that is used: where the run is strict, it must not be missing.
    fn checked(&self, expression: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        let value = self.value(expression, scope)?;
        self.check(&value)?;
        Ok(value)
    }

    fn check(&self, value: &Value) -> Result<()> {
        match value {
            Value::Undefined(message) if self.strict => Err(Error::new(format!("undefined value: {message}"))),
            _ => Ok(()),
        }
    }

    pub(super) fn value(&self, expression: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        let _level = meter::deeper()?;
        self.evaluated(expression, scope).map_err(|e| e.at(expression.line))
    }

    fn evaluated(&self, expression: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        Ok(match &expression.kind {
            ExprKind::None => Value::None,
            ExprKind::Bool(b) => Value::Bool(*b),
            ExprKind::Int(n) => Value::Int(*n),
            ExprKind::Float(x) => Value::Float(*x),
            ExprKind::Str(text) => Value::text(&**text)?,
            ExprKind::Name(name) => self.name(name, scope),
            ExprKind::List(items) => Value::list(self.values(items, scope)?)?,
            ExprKind::Tuple(items) => Value::tuple(self.values(items, scope)?)?,
            ExprKind::Dict(entries) => {
                let mut dict = Dict::empty();
                for (key, value) in entries {
                    dict.insert(self.value(key, scope)?, self.value(value, scope)?)?;
                }
                dict.into_value()
            }
            ExprKind::Not(operand) => Value::Bool(!self.checked(operand, scope)?.is_true()),
            ExprKind::Sign(negative, operand) => sign(*negative, &self.value(operand, scope)?)?,
            ExprKind::Choice(choice) => {
                let (value, test, otherwise) = &**choice;
                match (self.checked(test, scope)?.is_true(), otherwise) {
                    (true, _) => self.value(value, scope)?,
                    (false, Some(otherwise)) => self.value(otherwise, scope)?,
                    (false, None) => {
                        Value::undefined("the inline if-expression evaluated to false and no else section was defined.")
                    }
                }
            }
            ExprKind::And(operands) => self.first_that(operands, scope, false)?,
            ExprKind::Or(operands) => self.first_that(operands, scope, true)?,
            ExprKind::Concat(operands) => {
                let mut out = Builder::new();
                for operand in operands {
                    repr::write_str(&mut out, &self.checked(operand, scope)?)?;
                }
                Value::Str(out.finish()?)
            }
            ExprKind::Math(first, rest) => {
                let mut value = self.value(first, scope)?;
                for (operator, operand) in rest {
                    value = ops::math(*operator, &value, &self.value(operand, scope)?)?;
                }
                value
            }
            ExprKind::Compare(first, rest) => Value::Bool(self.compared(first, rest, scope)?),
            ExprKind::Post(base, steps) => {
                let value = self.value(base, scope)?;
                self.steps(value, steps, scope)?
            }
        })
    }

    fn values(&self, expressions: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        expressions.iter().map(|expression| self.value(expression, scope)).collect()
    }

    fn name(&self, name: &str, scope: &Rc<Scope>) -> Value {
        if let Some(value) = scope.get(name) {
            return value;
        }
        let function = methods::FUNCTIONS.into_iter().find(|function| *function == name);
        function.map_or_else(|| Value::undefined(format!("'{name}' is undefined")), Value::Function)
    }

    /// The first operand whose truth is `wanted`, else the last one.
    fn first_that(&self, operands: &[Expr], scope: &Rc<Scope>, wanted: bool) -> Result<Value> {
        let mut value = Value::None;
        for operand in operands {
            value = self.checked(operand, scope)?;
            if value.is_true() == wanted {
                break;
            }
        }
        Ok(value)
    }

    fn compared(&self, first: &Expr, rest: &[(CompareOp, Expr)], scope: &Rc<Scope>) -> Result<bool> {
        let mut left = self.checked(first, scope)?;
        for (operator, operand) in rest {
            let right = self.checked(operand, scope)?;
            let holds = match operator {
                CompareOp::Eq => ops::equal(&left, &right)?,
                CompareOp::Ne => !ops::equal(&left, &right)?,
                CompareOp::In => ops::contains(&right, &left)?,
                CompareOp::NotIn => !ops::contains(&right, &left)?,
                CompareOp::Lt => ops::compare(&left, &right, "<")? == Some(Ordering::Less),
                CompareOp::Gt => ops::compare(&left, &right, ">")? == Some(Ordering::Greater),
                CompareOp::Le => {
                    matches!(ops::compare(&left, &right, "<=")?, Some(Ordering::Less | Ordering::Equal))
                }
                CompareOp::Ge => {
                    matches!(ops::compare(&left, &right, ">=")?, Some(Ordering::Greater | Ordering::Equal))
                }
            };
            if !holds {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    /// The value behind these steps.
    fn steps(&self, mut value: Value, steps: &[Post], scope: &Rc<Scope>) -> Result<Value> {
        for step in steps {
            value = self.step(value, step, scope).map_err(|e| e.at(step.line))?;
        }
        Ok(value)
    }

    fn step(&self, value: Value, step: &Post, scope: &Rc<Scope>) -> Result<Value> {
        match &step.kind {
            PostKind::Attribute(name) => access::attribute(&value, name),
            PostKind::Item(key) => access::item(&value, &self.value(key, scope)?),
            PostKind::Slice(bounds) => {
                let bound = |i: usize| bounds[i].as_ref().map(|bound| self.value(bound, scope)).transpose();
                access::slice(&value, [bound(0)?, bound(1)?, bound(2)?])
            }
            PostKind::Call(args) => self.call(&value, self.given(args, scope)?),
            PostKind::Filter(name, args) => {
                if !matches!(name.as_str(), "default" | "d") {
                    self.check(&value)?;
                }
                filters::call(name, &value, self.given(args, scope)?)
            }
            PostKind::Test { name, args, negated } => {
                if !matches!(name.as_str(), "defined" | "undefined") {
                    self.check(&value)?;
                }
                Ok(Value::Bool(predicates::call(name, &value, self.given(args, scope)?)? != *negated))
            }
        }
    }

    fn given(&self, args: &Args, scope: &Rc<Scope>) -> Result<Given> {
        let mut given = Given::default();
        if args.is_empty() {
            return Ok(given);
        }
        given.positional = self.values(&args.positional, scope)?;
        for (name, value) in &args.named {
            given.named.push((name.to_string(), self.value(value, scope)?));
        }
        if let Some(star) = &args.star {
            given.positional.extend(access::iterate(&self.value(star, scope)?)?.items().iter().cloned());
        }
        if let Some(star) = &args.star_star {
            let Value::Dict(dict) = self.value(star, scope)? else {
                return Err(Error::new("argument after ** must be a mapping"));
            };
            for (key, value) in dict.entries.values() {
                let name = key.as_str().ok_or_else(|| Error::new("keywords must be strings"))?;
                given.named.push((name.to_owned(), value.clone()));
            }
        }
        Ok(given)
    }

    fn call(&self, callee: &Value, given: Given) -> Result<Value> {
        match callee {
            Value::Undefined(message) => Err(Error::new(&**message)),
            Value::Method(method) => methods::call(&method.0, &method.1, given),
            Value::Function(name) => methods::call_function(name, given),
            Value::Macro(value) => self.call_macro(value, given),
            Value::Object(object) => self.call_object(callee, object, given),
            other => Err(not_callable(other)),
        }
    }

    fn call_object(&self, callee: &Value, object: &Object, given: Given) -> Result<Value> {
        match object {
            Object::Joiner { separator, used } => {
                given.none("joiner")?;
                if used.replace(true) { Ok(separator.borrow().clone()) } else { Value::text("") }
            }
            Object::Loop(state) => {
                let (recurse, depth0) = {
                    let state = state.borrow();
                    (state.recurse.clone(), state.depth0 + 1)
                };
                let no = || Error::new("The loop must have the 'recursive' marker to be called recursively.");
                let (def, scope) = recurse.ok_or_else(no)?;
                let items = access::iterate(given.bind("loop", ["iterable"])?.need(0)?)?;
                let mut out = Builder::new();
                let _level = meter::deeper()?;
                self.for_(&def, items, &scope, depth0, &mut out)?;
                Ok(Value::Str(out.finish()?))
            }
            _ => Err(not_callable(callee)),
        }
    }

    /// The call of a `call` block: the last step of its expression gets the caller.
    fn call_with_caller(&self, call: &Expr, caller: Value, scope: &Rc<Scope>) -> Result<Value> {
        let ExprKind::Post(base, steps) = &call.kind else { return Err(Error::new("expected a call")) };
        let Some((Post { kind: PostKind::Call(args), .. }, before)) = steps.split_last() else {
            return Err(Error::new("expected a call"));
        };
        let base = self.value(base, scope)?;
        let callee = self.steps(base, before, scope)?;
        let mut given = self.given(args, scope)?;
        given.named.push(("caller".to_owned(), caller));
        self.call(&callee, given)
    }

    fn call_macro(&self, value: &MacroValue, given: Given) -> Result<Value> {
        let _level = meter::deeper()?;
        let def = &value.def;
        let name = def.name.as_deref().unwrap_or("caller");
        let outer = value.scope.upgrade().ok_or_else(|| Error::new(format!("macro '{name}' is out of scope")))?;
        let inner = Scope::inside(&outer);
        let mut named = given.named;
        let mut positional = given.positional.into_iter();
        for (param, default) in &def.params {
            let by_name = named.iter().position(|(name, _)| **name == **param);
            let given = positional.next().or_else(|| by_name.map(|at| named.remove(at).1));
            let value = match (given, default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.value(default, &inner)?,
                (None, None) => Value::undefined(format!("parameter '{param}' was not provided")),
            };
            inner.set(param, value);
        }
        let has = |name: &str| def.params.iter().any(|(param, _)| **param == *name);
        if def.uses.caller && !has("caller") {
            let caller = named.iter().position(|(name, _)| name == "caller").map(|at| named.remove(at).1);
            inner.set(&"caller".into(), caller.unwrap_or_else(|| Value::undefined("No caller defined")));
        }
        let rest: Vec<Value> = positional.collect();
        if def.uses.varargs && !has("varargs") {
            inner.set(&"varargs".into(), Value::tuple(rest)?);
        } else if !rest.is_empty() {
            let n = def.params.len();
            return Err(Error::new(format!("macro '{name}' takes not more than {n} argument(s)")));
        }
        if def.uses.kwargs && !has("kwargs") {
            let rest = Given { positional: Vec::new(), named };
            inner.set(&"kwargs".into(), rest.named_dict()?.into_value());
        } else if let Some((unknown, _)) = named.first() {
            return Err(Error::new(format!("macro '{name}' takes no keyword argument '{unknown}'")));
        }
        self.captured(&def.body, &inner)
    }
}

fn not_callable(value: &Value) -> Error {
    Error::new(format!("'{}' object is not callable", value.type_name()))
}

fn sign(negative: bool, value: &Value) -> Result<Value> {
    match value {
        Value::Undefined(message) => Err(Error::new(&**message)),
        Value::Float(x) => Ok(Value::Float(if negative { -x } else { *x })),
        other => {
            let wrong = || Error::new(format!("bad operand type for unary -: '{}'", other.type_name()));
            let n = other.as_int().ok_or_else(wrong)?;
            Ok(Value::Int(if negative { n.checked_neg().ok_or_else(wrong)? } else { n }))
        }
    }
}
