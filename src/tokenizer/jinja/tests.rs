//! Owns the checks of what a step costs, and of which parts of a text somebody typed.

use super::*;

/// The units of work that a source takes, and its text.
fn cost(source: &str) -> (u64, Result<Rendered>) {
    let template = Template::parse(source, Whitespace::default(), false).expect(source);
    on_deep_stack(|| {
        let rendered = template.render(&[("typed", Data::Typed("<x> Y"))]);
        (meter::worked(), rendered)
    })
    .expect("a thread")
}

/// Of the long texts `s`, `t`, `u` and `n`.
const OF_TEXT: &[&str] = &[
    "s == t",
    "s < t",
    "'b' in s",
    "s[1]",
    "s[1:]",
    "s[::-1]",
    "u[-1]",
    "u[1:]",
    "s ~ ''",
    "s + ''",
    "s * 1",
    "s is lower",
    "s is eq t",
    "{s: 1}",
    "{}[s]",
    "s|length",
    "s|upper",
    "s|title",
    "s|trim('b')",
    "s|wordcount",
    "s|int",
    "n|float",
    "s|replace('b', 'c')",
    "s|escape",
    "s|striptags",
    "s|urlencode",
    "s|tojson",
    "s|string|first",
    "s|reverse",
    "s|indent",
    "s|truncate(5)",
    "s|center(1)",
    "s|safe",
    "s|default('')|capitalize",
    "[s]|join",
    "[s]|string",
    "'%s' % s",
    "s % ()",
    "'{}'.format(s)",
    "s.format()",
    "s.upper()",
    "s.find('b')",
    "s.count('b')",
    "s.strip('b')",
    "s.split('b')",
    "s.split(none, 1)",
    "s.rsplit('b')",
    "s.splitlines()",
    "s.partition('b')",
    "s.startswith('b', 5)",
    "s.replace('b', '')",
    "s.isalpha()",
    "u.isalpha()",
    "u.isprintable()",
    "s.istitle()",
    "s.zfill(1)",
    "s.casefold()",
    "s.expandtabs()",
    "''.join([s])",
    "s.removeprefix('a')",
    "[s]|sort|first",
    "[s]|unique|first",
    "s|pprint",
];

/// Of the long lists `l` and `k` and the dict `d`.
const OF_LIST: &[&str] = &[
    "l == k",
    "l < k",
    "-1 in l",
    "l[1:]",
    "l[::-1]",
    "l + k",
    "l * 2",
    "l|sort",
    "l|reverse",
    "l|list",
    "l|sum",
    "l|min",
    "l|unique",
    "l|map('abs')",
    "l|select('odd')",
    "l|join",
    "l|string",
    "l|tojson",
    "l|batch(1)",
    "l|slice(20000)",
    "l|groupby('x')",
    "l.index(-1) if false else l.count(-1)",
    "range(20000)",
    "d.items()",
    "d.keys()",
    "d == dict(d)",
    "d|dictsort",
    "d|tojson",
    "d|string",
    "d|list",
    "l is in [k]",
    "(l, 1) == (k, 1)",
];

#[test]
fn every_operation_on_much_costs_much() {
    let text = "{% set s = 'a ' * 200000 %}{% set t = 'a ' * 200000 %}{% set u = '\u{e9}' * 200000 %}{% set n = '9' * 400000 %}";
    let list =
        "{% set l = range(20000)|list %}{% set k = range(20000)|list %}{% set d = dict(l|map('string')|batch(2)) %}";
    for (before, operations, n) in [(text, OF_TEXT, 400_000 / 16 / 2), (list, OF_LIST, 9_000)] {
        let (base, _) = cost(before);
        for operation in operations {
            let (with, _) = cost(&format!("{before}{{% set x = {operation} %}}"));
            assert!(with >= base + n, "{operation}: {} units", with - base);
        }
    }
}

#[test]
fn what_somebody_typed_stays_known() {
    let typed = |source: &str| {
        let rendered = cost(source).1.expect(source);
        let runs: Vec<String> = rendered.runs().filter(|(_, typed)| *typed).map(|(run, _)| run.to_owned()).collect();
        (rendered.as_str().to_owned(), runs)
    };
    for (source, text, parts) in [
        ("<s>{{ typed }}</s>", "<s><x> Y</s>", vec!["<x> Y"]),
        ("{{ '<s>' + typed + '</s>' }}", "<s><x> Y</s>", vec!["<x> Y"]),
        ("{{ '<s>' ~ typed ~ typed }}", "<s><x> Y<x> Y", vec!["<x> Y<x> Y"]),
        ("{{ ('<s>' ~ typed ~ '</s>')|upper }}", "<S><X> Y</S>", vec!["<X> Y"]),
        ("{{ ('a' ~ typed)[1:3] }}", "<x", vec!["<x"]),
        ("{{ ('a' ~ typed)[::-1] }}", "Y >x<a", vec!["Y >x<"]),
        ("{{ typed.split(' ')[-1] }}b", "Yb", vec!["Y"]),
        ("{{ ('<s>' ~ typed).replace('x', '<y>') }}", "<s><<y>> Y", vec!["<", "> Y"]),
        ("{{ 'a'.replace('a', typed) }}", "<x> Y", vec!["<x> Y"]),
        ("{{ '<s>%s</s>' % typed }}", "<s><x> Y</s>", vec!["<x> Y"]),
        ("{{ '<s>{}</s>'.format(typed) }}", "<s><x> Y</s>", vec!["<x> Y"]),
        ("{{ ['<s>', typed]|join('-') }}", "<s>-<x> Y", vec!["<x> Y"]),
        ("{{ '-'.join(['<s>', typed]) }}", "<s>-<x> Y", vec!["<x> Y"]),
        ("{{ {'a': typed} }}", "{'a': '<x> Y'}", vec!["'<x> Y'"]),
        ("{{ {'a': typed}|tojson }}", "{\"a\": \"<x> Y\"}", vec!["<x> Y"]),
        ("{{ (' a' ~ typed ~ ' ')|trim }}", "a<x> Y", vec!["<x> Y"]),
        ("{% set x %}<s>{{ typed }}{% endset %}{{ x }}", "<s><x> Y", vec!["<x> Y"]),
        ("{% macro m(t) %}<s>{{ t }}{% endmacro %}{{ m(typed) }}", "<s><x> Y", vec!["<x> Y"]),
        ("{{ typed|title }}b", "<X> Yb", vec!["<X> Y"]),
        ("{{ typed.center(7, '*') }}", "*<x> Y*", vec!["<x> Y"]),
        ("{{ typed|indent(1, true) }}", " <x> Y", vec!["<x> Y"]),
        ("{{ typed|list|first }}", "<", vec!["<"]),
        ("{{ typed * 2 }}", "<x> Y<x> Y", vec!["<x> Y<x> Y"]),
        ("{{ typed|string|default('a')|truncate(4, true, '.') }}", "<x> Y", vec!["<x> Y"]),
    ] {
        assert_eq!(typed(source), (text.to_owned(), parts.into_iter().map(String::from).collect()), "{source}");
    }
}

#[test]
fn a_rendered_text_is_cut_with_its_parts() {
    let rendered = Rendered { text: "<s>hi</s>yo".to_owned(), typed: vec![3..5, 9..11] };
    let rest = rendered.after(4);
    assert_eq!(rest.runs().collect::<Vec<_>>(), [("i", true), ("</s>", false), ("yo", true)]);
    assert_eq!(Rendered::from("a".to_owned()).runs().collect::<Vec<_>>(), [("a", false)]);
    assert_eq!(Rendered::default().runs().count(), 0);
}

#[test]
fn expressions_give_the_values_of_a_row() {
    let row = serde_json::json!({"a": {"b": [1, 2.5, null, true, "x"]}});
    let value = |source: &str| Expression::parse(source).and_then(|expression| expression.eval(&row));
    assert_eq!(value("a.b").unwrap(), Some(row["a"]["b"].clone()));
    assert_eq!(value("a.b[0] + 1").unwrap(), Some(2.into()));
    assert_eq!(value("{'k': a.b|first}").unwrap(), Some(serde_json::json!({"k": 1})));
    assert_eq!(value("a.c").unwrap(), None);
    assert!(value("a.c.d").is_err() && value("a b").is_err() && value("range").is_err() && value("").is_err());
}
