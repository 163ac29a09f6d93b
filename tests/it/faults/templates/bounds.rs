//! What a hostile template or task prompt reaches: an error that names it, soon, in little memory.

use std::time::{Duration, Instant};

use curtail::tokenizer::{ChatTemplate, Message};

use crate::common::tiny::Tiny;
use crate::common::watched::run_within;

/// The error of a template.
#[track_caller]
fn refused(source: &str) -> String {
    let shown: String = source.chars().take(120).collect();
    let start = Instant::now();
    let talk = [Message { role: "user".into(), content: "hi".into() }];
    let done = ChatTemplate::new(source, None, None).and_then(|template| template.render(&talk, true));
    let took = start.elapsed();
    let error = done.map(|text| text.as_str().len()).expect_err(&shown).to_string();
    // Two seconds of work at most; the rest is for busy machines and unoptimized builds.
    assert!(took < Duration::from_secs(8), "{shown}: {took:?}");
    error
}

fn repeated(before: &str, part: &str, n: usize, after: &str) -> String {
    format!("{before}{}{after}", part.repeat(n))
}

#[test]
fn deep_templates_are_refused() {
    for source in [
        repeated("{{ ", "-", 60_000, "1 }}"),
        repeated("{{ ", "not ", 60_000, "1 }}"),
        repeated("{{ ", "(", 60_000, "1"),
        repeated("{{ ", "[", 60_000, ""),
        repeated("{{ ", "{1:", 60_000, ""),
        repeated("{{ x", "[x", 60_000, ""),
        repeated("{{ x", "(x", 60_000, ""),
        repeated("{{ 1", "|default(1", 60_000, ""),
        repeated("{{ 1", " is eq(1", 60_000, ""),
        repeated("{{ 1", " if 1 else 1", 60_000, " }}"),
        repeated("{{ 1", " if 1", 60_000, " }}"),
        repeated("", "{% if 1 %}", 60_000, ""),
        repeated("", "{% for x in y %}", 50_000, ""),
        repeated("", "{% set x %}", 50_000, ""),
        repeated("", "{% macro x() %}", 50_000, ""),
        repeated("{% set ", "(", 60_000, "a"),
        repeated("{% for ", "(", 60_000, "a"),
    ] {
        let error = refused(&source);
        assert!(error.contains("nested deeper") || error.contains("too many `if`"), "{error}");
    }
    assert!(refused(&"x".repeat(2 << 20)).contains("expected at most"));
}

#[test]
fn long_chains_are_fine() {
    let talk = [];
    for (source, expected) in [
        (repeated("{{ 1", "+1", 100_000, " }}"), "100001"),
        (repeated("{{ 1", " and 1", 100_000, " }}"), "1"),
        (repeated("{{ 0", " or 1", 100_000, " }}"), "1"),
        (repeated("{{ 1", "==1", 100_000, " }}"), "True"),
        (repeated("{{ 'a'", "|upper", 100_000, " }}"), "A"),
        (repeated("{{ 'a'", ".upper()", 100_000, " }}"), "A"),
        (repeated("{{ 1", " is odd", 1, " }}"), "True"),
        (repeated("{{ 'a'", "'b'", 3, " }}"), "abbb"),
        (repeated("{% if 0 %}", "{% elif 0 %}", 50_000, "{% else %}x{% endif %}"), "x"),
    ] {
        let template = ChatTemplate::new(&source, None, None).expect(expected);
        assert_eq!(template.render(&talk, true).expect(expected).as_str(), expected);
    }
}

#[test]
fn recursion_ends() {
    for source in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro m() %}{% call m() %}x{% endcall %}{{ caller }}{% endmacro %}{{ m() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
        "{% set ns=namespace() %}{% set ns.a=ns %}{{ ns }}",
        "{% set ns=namespace() %}{% set ns.a=[ns] %}{{ ns.a|string }}",
        "{% set ns=namespace() %}{% set ns.a=[ns] %}{{ '%s' % ns.a }}",
        "{% set ns=namespace() %}{% set ns.a=[ns] %}{{ ns.a|pprint }}",
        "{% set ns=namespace() %}{% set ns.a=[ns] %}{{ ns.a|join }}",
    ] {
        assert!(refused(source).contains("nested too deep"), "{source}");
    }
}

#[test]
fn deep_values_are_refused() {
    for step in [
        "[ns.a]",
        "(ns.a,)",
        "{'a': ns.a}",
        "[[[[[[[[[[ns.a]]]]]]]]]]",
        "dict(a=ns.a)",
        "[ns.a]|list|map('list')|list",
        "{'a': ns.a}.items()",
        "[ns.a].copy",
        "[ns.a]|batch(1)|list",
        "[ns.a]|groupby(0)",
    ] {
        for end in ["x", "{{ ns.a }}", "{{ ns.a|tojson }}", "{{ ns.a == [ns.a] }}", "{{ ns.a|pprint }}"] {
            let source = format!(
                "{{% set ns=namespace(a=[]) %}}{{% for i in range(100000) %}}{{% set ns.a={step} %}}{{% endfor %}}{end}"
            );
            refused(&source);
        }
    }
    // These hold each other in ways that no height counts.
    for step in ["cycler(ns.a)", "joiner(ns.a)", "namespace(a=ns.a)"] {
        let source = format!(
            "{{% set ns=namespace(a=[]) %}}{{% for i in range(30000) %}}{{% set ns.a={step} %}}{{% endfor %}}x"
        );
        let rendered = ChatTemplate::new(&source, None, None).and_then(|template| template.render(&[], true));
        assert_eq!(rendered.expect(step).as_str(), "x");
    }
    let loops = "{% set ns=namespace(l=0) %}{% for i in range(30000) %}{% for j in [ns.l] %}{% set ns.l = loop %}\
                 {% endfor %}{% endfor %}x";
    assert_eq!(ChatTemplate::new(loops, None, None).unwrap().render(&[], true).unwrap().as_str(), "x");
}

#[test]
fn large_values_are_refused() {
    for source in [
        "{{ 'a' * 10**8 }}",
        "{{ 'a' * 9223372036854775807 }}",
        "{{ [1] * 10**9 }}",
        "{{ ([1] * 1000000) * 1000000 }}",
        "{{ ('a' * 10**7).center(10**12) }}",
        "{{ 'a'.ljust(10**12) }}",
        "{{ 'a'.zfill(10**12) }}",
        "{{ '\\t'.expandtabs(10**12) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (10**12, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ '{:{}}'.format(1, 10**12) }}",
        "{{ 'a'|center(10**12) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).join(['x'] * 1000000) }}",
        "{{ (['x'] * 1000000)|join('a' * 1000000) }}",
        "{{ ('x\\n' * 1000000)|indent('a' * 1000000) }}",
        "{{ ([1] * 100000)|tojson(separators=['a' * 100000, '']) }}",
        "{{ [[1] * 100000]|tojson(indent='a' * 100000) }}",
        "{{ (['a' * 10000] * 100000)|string }}",
        "{{ ('{0}' * 100000).format('a' * 10000) }}",
        "{{ ('%(a)s' * 100000) % {'a': 'a' * 10000} }}",
        "{{ ('a' * 10000000)|list }}",
        "{{ ('a,' * 10000000).split(',') }}",
        "{{ ('a\\n' * 10000000).splitlines() }}",
        "{{ [1]|batch(10**10, 1)|list }}",
        "{{ [1]|slice(10**10)|list }}",
        "{{ ('a' * 30000000) ~ ('a' * 40000000) }}",
        "{% set ns=namespace(s='aa') %}{% for i in range(60) %}{% set ns.s=ns.s~ns.s %}{% endfor %}",
        "{% set ns=namespace(s='aa') %}{% for i in range(60) %}{% set ns.s=ns.s+ns.s %}{% endfor %}",
        "{% set ns=namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s=ns.s+ns.s %}{% endfor %}",
        "{% set ns=namespace(s='aa') %}{% for i in range(60) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s=x %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}",
        "{% set ns=namespace(s=[]) %}{% for i in range(100000) %}{% set ns.s=ns.s+['a'*1000] %}{% endfor %}",
        "{% set ns=namespace(a=[1]) %}{% for i in range(150) %}{% set ns.a=[ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
        "{% set ns=namespace(a=(1,)) %}{% for i in range(150) %}{% set ns.a=(ns.a, ns.a) %}{% endfor %}{{ {ns.a: 1} }}",
    ] {
        refused(source);
    }
}

#[test]
fn endless_work_is_refused() {
    // What one operation costs is a unit test beside the code.
    for source in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set s='a'*10000000 %}{% set t='a'*10000000 %}{% for i in range(100000) %}{% set x=s==t %}{% endfor %}",
        "{% set l=range(100000)|list %}{% for i in range(100000) %}{% set x=l|sort %}{% endfor %}",
        "{% set ns=namespace(a=[1]) %}{% set ns.b=[1] %}{% for i in range(150) %}{% set ns.a=[ns.a, ns.a] %}\
         {% set ns.b=[ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    ] {
        let error = refused(source);
        assert!(error.contains("does not come to an end") || error.contains("takes more than"), "{source}: {error}");
    }
}

#[test]
fn the_program_survives_and_names_the_template() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hostile.gguf");
    let model = path.to_str().expect("UTF-8");
    for template in [
        "{% set ns=namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a=[ns.a] %}{% endfor %}{{ ns.a|pprint }}"
            .to_owned(),
        format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        "{{ 'a' * 10**9 }}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
    ] {
        Tiny::new().with("tokenizer.chat_template", template).write(&path);
        let mut command = crate::common::curtail(&["run", "-m", model, "-p", "hi", "-n", "1", "-t", "1"]);
        // A small stack of its own must not matter.
        let said = ["chat template of `", "hostile.gguf", "hint: --chat-template"];
        run_within(&mut command, b"", Duration::from_secs(15)).with(1, &said);
    }
}

#[test]
fn task_prompts_have_the_same_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    Tiny::new().write(&path);
    let rows: String = (0..4).map(|i| format!("{{\"text\": \"the\", \"a\": {}}}\n", i % 2)).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).expect("written");
    let task = |prompt: &str, answer: &str| {
        let task = folder.path().join("task.toml");
        let text = format!(
            "name = \"t\"\nprompt = {}\nlabels = [\" a\", \" b\"]\nanswer = {}\nshots = 1\ntrain = \"rows.jsonl\"\ntest = \"rows.jsonl\"\n",
            serde_json::to_string(prompt).expect("JSON"),
            serde_json::to_string(answer).expect("JSON"),
        );
        std::fs::write(&task, text).expect("written");
        let args = ["train-exit", "-t", "1", "-m", path.to_str().expect("UTF-8"), "--task"];
        let mut command = crate::common::curtail(&args);
        command.arg(&task).arg("-o").arg(folder.path().join("e.gguf"));
        run_within(&mut command, b"", Duration::from_secs(20))
    };
    for prompt in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns=namespace(s=text) %}{% for i in range(60) %}{% set ns.s=ns.s~ns.s %}{% endfor %}",
        "{% set ns=namespace() %}{% set ns.a=ns %}{{ns}}",
    ] {
        task(prompt, "a").with(1, &["rows.jsonl:1: `prompt`: "]);
    }
    task(&"{% if 1 %}".repeat(50_000), "a").with(1, &["task.toml: `prompt`: ", "nested deeper"]);
    task("{{ text }}", &format!("{}a", "-".repeat(100_000))).with(1, &["task.toml: `answer`: ", "nested deeper"]);
    task("{{ text }}", "'a' * 10**10").with(1, &["rows.jsonl:1: `answer`: ", "memory"]);
}
