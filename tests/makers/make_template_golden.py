#!/usr/bin/env python3
"""Makes tests/data/templates/golden.json: what transformers' own renderer makes of a corpus of templates.

The corpus: every *.jinja in tests/data/templates/chat (chat templates in the ways of known families, written for these
tests) with conversations, and the expressions and statements below, one template each.

    pip install transformers jinja2
    python tests/makers/make_template_golden.py
"""

import json

from transformers.utils.chat_template_utils import render_jinja_template

from shared import DATA

OUT = DATA / "templates"


def turn(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [turn("user", "Hello")],
    [turn("system", "Be brief."), turn("user", " Who are you? ")],
    [
        turn("system", "S"),
        turn("user", '1 < 2 & "3"?'),
        turn("assistant", "<think>\nhm\n</think>\n\nYes.\n"),
        turn("user", "\u65e5\u672c\r\n\U0001f600"),
    ],
    [turn("user", "a"), turn("user", "b")],
    [turn("user", "weather?"), turn("assistant", "It rains."), turn("user", "Thanks <|im_end|> [INST]")],
]

TOOLS = """{% set tools = [{'type': 'function', 'function': {'name': 'get_weather', 'description': 'The weather\\nof a city.',
 'parameters': {'type': 'object', 'properties': {'city': {'type': 'string', 'description': 'A \"city\" <b>'}, 'days':
 {'type': 'integer', 'enum': [1, 2, 3], 'default': 1}}, 'required': ['city']}}}] -%}
"""

# Rendered as `{{ (EXPRESSION) }}`.
EXPRESSIONS = r"""
1 + 2 * 3
7 // 2
-7 // 2
-7 % 3
7 % -3
7 / 2
6 / 2
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
7.5 // 2
1e3
1e16
1e15
1.5e-7
0.1 + 0.2
1_000
0x1f
0b101
0o17
1 / 0
1 // 0
1 % 0
1.0 * 3
100000000.0 * 100000000.0
3.0
-0.0
true + true
true and 1
0 or ''
none or 'x'
not none
not ''
'a' ~ 1 ~ none ~ true ~ 1.5
'a' ~ [1, 'b'] ~ {'c': none}
1 ~ 2 + 3
'a' + 'b'
'a' + 1
1 + 'a'
'ab' * 3
3 * 'ab'
'ab' * -1
[1] + [2, 3]
[1, 2] * 2
(1, 2) + (3,)
[1] + (2,)
()
(1,)
(1, 2)
[]
{}
{'a': 1, 'b': [1, 2.5, none, true, 'x']}
{1: 2, true: 3}
{(1, 2): 3}
{[1]: 2}
"it's"
'say "hi"'
['it\'s', "say \"hi\"", 'both \' and "']
['a\nb\t\\', 'é', '日本', '\x07', '\u200b', '😀', '\xa0']
'a' 'b' "c"
'\x41\u00e9\101\q'
1 < 2
1 < 2 < 3
1 < 3 < 2
3 > 2 > 1
1 == 1.0
1 == true
'1' == 1
none == none
none == false
[1, 2] == [1, 2]
[1, 2] == (1, 2)
{'a': 1} == {'a': 1.0}
[1, 2] < [1, 3]
(1, 2) < (1, 2, 3)
'a' < 'b'
'Z' < 'a'
1 < 'a'
none < 1
[1] < 2
'a' in 'abc'
'' in ''
1 in 'abc'
1 in [1, 2]
1 not in [1, 2]
'a' in {'a': 1}
[1] in {'a': 1}
'a' in none
'a' in undefined_name
'a' in 5
undefined_name
undefined_name.x
undefined_name['x']
undefined_name + 'a'
undefined_name ~ 'a'
undefined_name == undefined_name
undefined_name == none
undefined_name < 1
undefined_name()
-undefined_name
undefined_name | length
undefined_name | upper
undefined_name | trim
undefined_name | int
undefined_name | float
undefined_name | tojson
undefined_name | default('d')
undefined_name | list
undefined_name | join(',')
undefined_name | first
undefined_name is defined
undefined_name is iterable
undefined_name is sequence
undefined_name is mapping
undefined_name is string
undefined_name is none
undefined_name is callable
messages[5]
messages[-1].role
messages[0]['role']
messages[0].nothing
messages[0]['nothing']
messages[0].nothing.deeper
messages.nothing
messages['nothing']
messages[0].get('role')
messages[0].get('x')
messages[0].get('x', 'y')
messages[0].items() | list
messages[0].keys() | list
messages[0].values() | list
messages[0].items()
messages[0].keys()
messages[0].items()[0]
messages[0].copy()
messages[0].update({'a': 1})
messages.append(1)
messages.pop()
messages.index(messages[0])
messages.count(messages[0])
messages.copy() | length
messages.__class__
messages[0].__class__.__mro__
''.__class__
none.x
none.x.y
none['x']
none[0]
none[1:]
(5)[0]
(5).x
5 | string | length
'abc'[0]
'abc'[-1]
'abc'[5]
'abc'['x']
'abc'.x
'日本語'[1]
'日本語'[1:]
'abcdef'[1:3]
'abcdef'[::-1]
'abcdef'[::2]
'abcdef'[-3:-1]
'abcdef'[4:1]
'abcdef'[4:1:-1]
'abcdef'[:100]
'abcdef'[-100:2]
'abcdef'['a':]
'abcdef'[::0]
[1, 2, 3, 4][1:]
[1, 2, 3, 4][::-1]
[1, 2, 3, 4][-2:]
[1, 2, 3, 4][::-2]
(1, 2, 3)[1:]
range(5)[1:3]
range(5)
range(2, 10, 3) | list
range(5, 0, -2) | list
range(0)
range(3)[1]
range(100001) | length
range(1, 2, 0)
range('a')
range(1.5)
range()
dict(a=1, b=2)
dict([('a', 1)], b=3)
dict({'x': 1})
dict.fromkeys(['a', 'b'], 1)
'abc'.upper()
'ABC'.lower()
'hello world'.title()
"they're bill's".title()
'hELLO'.capitalize()
'aBc'.swapcase()
'Straße'.upper()
'Straße'.casefold()
'ﬁx'.capitalize()
' a b '.strip() ~ '|'
'xxaxx'.strip('x')
'abcba'.strip('ab')
' a '.lstrip() ~ '|'
' a '.rstrip() ~ '|'
'\u3000a\u3000'.strip()
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
'a b  c'.split()
'  a b  c '.split(none, 1)
'  a b  c '.rsplit(none, 1)
'  a  '.split(' ')
'a b c'.split(maxsplit=1)
'a<sep>b'.split('<sep>')[-1]
''.split()
''.split(',')
'a'.split('')
'a,b'.partition(',')
'ab'.partition(',')
'a,b,c'.rpartition(',')
'ab'.rpartition(',')
'ab'.partition('')
'a\nb\r\nc\rd\x0be\u2028f'.splitlines()
'a\nb\n'.splitlines()
'a\nb\n'.splitlines(true)
''.splitlines()
'abc'.startswith('a')
'abc'.startswith(('x', 'ab'))
'abc'.startswith('b', 1)
'abc'.startswith('', 9)
'abc'.startswith(['a'])
'abc'.endswith('c')
'abc'.endswith(('x', 'bc'))
'abcabc'.find('c')
'abcabc'.find('x')
'abcabc'.rfind('c')
'abcabc'.find('c', 3)
'abcabc'.find('a', 1, 3)
'abcabc'.index('b')
'abcabc'.index('x')
'abcabc'.rindex('b')
'日本語日本'.rfind('日')
'abcabc'.count('bc')
'aaa'.count('aa')
'abc'.count('')
'abcabc'.count('a', 1)
'abcabc'.replace('b', 'X')
'abcabc'.replace('b', 'X', 1)
'abc'.replace('', '-')
'abc'.replace('b', 1)
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
'x'.removesuffix('')
'42'.zfill(5)
'-42'.zfill(5)
'+4'.zfill(4)
'abc'.zfill(2)
'a'.center(5, '*')
'ab'.center(5, '*')
'abc'.center(6) ~ '|'
'a'.ljust(3, '.')
'a'.rjust(3, '.')
'a'.ljust(3, '..')
'a\tb'.expandtabs()
'a\tb'.expandtabs(4)
','.join(['a', 'b'])
','.join('abc')
','.join([1])
','.join({'x': 1, 'y': 2})
''.join([])
'a1'.isalnum()
'a '.isalnum()
'é'.isalpha()
'1'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'一'.isnumeric()
''.isdigit()
'ab'.islower()
'aB'.islower()
'12'.islower()
'AB'.isupper()
' \n'.isspace()
''.isspace()
'Ab Cd'.istitle()
'AB'.istitle()
'a_b1'.isidentifier()
'1a'.isidentifier()
'abc'.isascii()
'é'.isascii()
'a\n'.isprintable()
'é '.isprintable()
'{} and {}'.format('a', 1)
'{1} {0}'.format('a', 'b')
'{x}'.format(x=3)
'{x.role} {y[k]} {z[0]}'.format(x=messages[0], y={'k': 'v'}, z=[7])
'{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')
'{:*^7}'.format('a')
'{:05d}'.format(42)
'{:+d}'.format(42)
'{:,}'.format(1234567)
'{:_x}'.format(1234567)
'{:.2f}'.format(3.14159)
'{:10.3f}|'.format(3.14159)
'{:e}'.format(12345.678)
'{:g}'.format(0.0001)
'{:g}'.format(1234567.0)
'{:%}'.format(0.25)
'{:x} {:X} {:o} {:b} {:#x}'.format(255, 255, 8, 5, 255)
'{!r} {!s}'.format('a', 'b')
'{:{}}|'.format('a', 5)
'{{}}'.format()
'{'.format(1)
'}'.format(1)
'{} {0}'.format(1)
'{5}'.format(1)
'{x}'.format()
'{:d}'.format('a')
'{:.3}'.format('abcdef')
'{:>08.2f}'.format(3.14159)
'{a}'.format_map({'a': 1})
'{:c}'.format(65)
'{}'.format(none)
'{}'.format([1, 'a'])
'%s' % 'a'
'%s %s' % ('a', 1)
'%d' % 42
'%d' % 3.9
'%5d|%-5d|%05d' % (1, 2, 3)
'%+d % d' % (1, 2)
'%.2f' % 3.14159
'%e' % 12345.678
'%g %g' % (0.00001, 100000.0)
'%x %X %o %#x' % (255, 255, 8, 255)
'%r' % 'a'
'%c' % 'a'
'%c' % 65
'%%' % ()
'100%%' % []
'%(a)s-%(b)d' % {'a': 'x', 'b': 2}
'%(a)s' % {'b': 1}
'%s' % ()
'%s' % (1, 2)
'%s' % [1, 2]
'%s' % {'a': 1}
'%s' % none
'%d' % 'a'
'%q' % 1
'%' % 1
'%*d' % (5, 42)
'%.3s|' % 'abcdef'
'%10s|%-10s|' % ('a', 'b')
'%i %u' % (1, 2)
'%s %s' | format('a', 'b')
'%(x)s' | format(x=1)
'%s' | format('a', x=1)
'abc' | upper
'ABC' | lower
'hello world-foo (bar) [baz] <x> {y}' | title
"they're" | title
'hELLO wORLD' | capitalize
5 | upper
none | upper
' a ' | trim ~ '|'
'xax' | trim('x')
'a b c' | replace('b', 'd')
'aaa' | replace('a', 'b', 2)
123 | replace(2, 'x')
'abc' | reverse
[1, 2, 3] | reverse | list
'abc' | first
'abc' | last
[] | first
[] | last
[1, 2] | first
[1, 2] | last
messages | map(attribute='role') | last
{'a': 1} | first
'abc' | length
[1, 2] | length
{'a': 1} | count
5 | length
none | length
messages | map(attribute='role') | length
'abc' | list
{'a': 1} | list
5 | list
[1, 2, 3] | join
[1, 2, 3] | join(', ')
['a', none, 1.5] | join('-')
'abc' | join(',')
messages | join(', ', attribute='role')
5 | join
[3, 1, 2] | sort
[3, 1, 2] | sort(reverse=true)
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | sort(case_sensitive=true)
[{'a': 2}, {'a': 1}] | sort(attribute='a')
[{'a': 1, 'b': 2}, {'a': 1, 'b': 1}] | sort(attribute='a,b')
[1, 'a'] | sort
'cab' | sort
{'b': 1, 'a': 2} | dictsort
{'b': 1, 'a': 2} | dictsort(by='value')
{'b': 1, 'A': 2} | dictsort(true)
{'b': 1, 'a': 2} | dictsort(reverse=true)
[1, 1, 2, 'a', 'A'] | unique | list
[1, 2, 3] | sum
[{'a': 1}, {'a': 2}] | sum(attribute='a')
[1, 2] | sum(start=10)
['a'] | sum
[1, 3, 2] | min
[1, 3, 2] | max
[] | max
['b', 'A'] | min
messages | map(attribute='role') | list
messages | map(attribute='x', default='d') | list
messages | map(attribute='x') | list
['a', 'b'] | map('upper') | list
[1, 2] | map('string') | join
['a b', 'c'] | map('replace', ' ', '_') | list
[1] | map('nofilter') | list
[1, 2, 3, 4] | select('odd') | list
[1, 2, 3, 4] | reject('odd') | list
[0, 1, ''] | select | list
[1, 2, 3] | select('gt', 1) | list
[1, 2, 3] | select('in', [1, 3]) | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('role', '==', 'user') | map(attribute='content') | join('|')
messages | rejectattr('role', 'eq', 'user') | list
messages | selectattr('x') | list
messages | selectattr('role', 'in', ['user']) | first
'yes' if messages | selectattr('role', 'equalto', 'nobody') else 'no'
(messages | selectattr('role', 'equalto', 'user'))[0]
messages | groupby('role')
[{'a': 1}, {'a': 2}, {'a': 1}] | groupby('a')
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3, 4, 5] | batch(2, 0) | list
[1, 2, 3, 4, 5] | slice(2) | list
[1, 2, 3, 4, 5] | slice(3, 0) | list
{'a': 1} | items | list
[1] | items | list
5 | int
'5' | int
'5.7' | int
'abc' | int
'abc' | int(7)
'' | int
none | int
'0x1f' | int(0, 16)
'0b11' | int(base=2)
'ff' | int(base=16)
' 42 ' | int
'1_000' | int
'1e3' | int
3.9 | int
-3.9 | int
true | int
[1] | int
'5' | float
'abc' | float
'abc' | float(1.5)
'1e400' | float
none | float
'inf' | float
'nan' | float
2.5 | round
3.5 | round
2.567 | round(2)
2.675 | round(2)
2.1 | round(0, 'ceil')
2.9 | round(0, 'floor')
2.55 | round(1, 'ceil')
42 | round
1234 | round(-2)
1250 | round(-2)
1.5 | round(1, 'x')
-5 | abs
-5.5 | abs
'a' | abs
5 | string
none | string
'Hello, wide world! x_1' | wordcount
'' | wordcount
'a\nb\n\nc' | indent
'a\nb' | indent(2, true)
'a\nb\n\nc' | indent(2, blank=true)
'a\nb' | indent('> ')
'a\nb\n' | indent(2)
'a\nb' | indent(width=2, first=true)
'a' | center(5) ~ '|'
'Hello wonderful world' | truncate(10)
'Hello wonderful world' | truncate(10, true)
'Hello wonderful world' | truncate(10, false, '>>')
'Hello' | truncate(5)
'Hello wo' | truncate(5)
'Hello wo' | truncate(5, leeway=0)
'Hello wonderful world of words' | wordwrap(10)
'Hello wonderful-world of words' | wordwrap(12)
'aaaaaaaaaaaa bb' | wordwrap(5)
'aaaaaaaaaaaa bb' | wordwrap(5, false)
'a b\n\nc d' | wordwrap(1)
'<a href="x">it\'s</a>' | escape
'<a>' | e | e
'<a>' | safe
('<a>' | safe) + '<b>'
'<b>' + ('<a>' | safe)
('<a>' | safe) ~ '<b>'
('<i>%s</i>' | safe) % '<b>'
'<a>' | forceescape
'<p>a &amp; <b>b</b></p>\n c' | striptags
'a b/c?d=é' | urlencode
{'a b': 'c&d', 'e': 1} | urlencode
{'class': 'x y', 'id': 'a"b', 'n': none} | xmlattr
1000 | filesizeformat
1 | filesizeformat
1500000 | filesizeformat
1024 | filesizeformat(true)
none | default('d')
none | default('d', true)
'' | d('x', true)
[] | default([1], boolean=true)
[1, {'a': 'b'}] | pprint
messages[0] | attr('role')
messages | attr('count') is callable
messages | attr('nothing')
{'a': [1, 2]} | tojson
{'a': [1, 2]} | tojson(indent=2)
{'a': [1, 2], 'b': {}, 'c': []} | tojson(indent=4)
{'a': [1]} | tojson(indent='\t')
{'a': [1]} | tojson(indent=0)
{'a': [1, 2]} | tojson(separators=(',', ':'))
{'b': 1, 'a': 2} | tojson(sort_keys=true)
{'b': 1, 'a': 2} | tojson(sort_keys=true, indent=1)
'é😀"\\\n\t\x7f\x01/' | tojson
'é😀"\\\n\t\x7f\x01/' | tojson(ensure_ascii=true)
'<b>&\'' | tojson
'é' | tojson(true)
[1.0, 1e100, 0.1, 1e-7, true, none] | tojson
{1: 1, none: 2, true: 3, 1.5: 4} | tojson
{(1, 2): 3} | tojson
(1, 2) | tojson
range(3) | tojson
messages[0].keys() | tojson
messages | tojson
messages | map(attribute='role') | tojson
'a' | tojson(x=1)
'x' | nofilter
5 is odd
4 is even
'a' is odd
6 is divisibleby 3
6 is divisibleby(4)
none is none
5 is none
5 is not none
5 is number
true is number
true is integer
true is boolean
5 is integer
5.0 is float
5.0 is integer
'a' is string
5 is string
{} is mapping
[] is mapping
[] is sequence
'a' is sequence
{} is sequence
5 is sequence
none is sequence
none is iterable
5 is iterable
'a' is iterable
[] is iterable
{} is iterable
range(2) is iterable
range(2) is sequence
(messages | map(attribute='x')) is iterable
(messages | map(attribute='x')) is sequence
messages[0].items() is sequence
'abc' is lower
'ABC' is upper
'a' is in 'abc'
1 is in [1]
1 is eq 1
1 is ne 2
1 is lt 2
1 is ge 1
1 is sameas true
true is sameas true
none is sameas none
range is callable
raise_exception is callable
'a' is callable
'upper' is filter
'nofilter' is filter
'odd' is test
'a' is escaped
('a' | e) is escaped
true is true
1 is true
false is false
5 is nothing
messages[0].role is defined
messages[0].nothing is defined
messages[0]['nothing'] is undefined
messages[0] is defined and messages[0].role == 'user'
'a' if true
'a' if false
'a' if false else 'b'
'a' if false else 'b' if false else 'c'
[1, 2, 3][-1]
[[1, 2], [3]][0][1]
{'a': {'b': 1}}.a.b
{'a': {'b': 1}}['a']['b']
{'items': 5}['items']
[1, 2].0
messages.0.role
raise_exception('no way')
strftime_now('%Y') | length
strftime_now('literal')
namespace(a=1).a
namespace(a=1)['a']
namespace(a=1)
namespace(_a=1)
namespace({'a': 2}).a
cycler('a', 'b').next()
joiner()()
'a' * 3 ~ 'b'
not 1 == 2
1 if 2 is odd else 3
2 is odd or 3 is odd
-1 | abs
(-1) | abs
- 1 - -1
1 - 1
[1,2,]
{'a': 1,}
(1 if true else 2, 3)
1 is
1 +
'a
{'a' 1}
[1 2]
a b
1 = 2
(1
1)
a..b
a.
x | 
@
bos_token ~ eos_token
tools is none
documents is none
add_generation_prompt
add_generation_prompt is true
5 .bit_length()
(2.0).is_integer()
[1, 2] | tojson | safe
'A' == 'a' | upper
'x' in 'a' ~ 'x'
loop is defined
""".strip("\n").split("\n")

# Rendered as they stand.
STATEMENTS = [
    "a\nb\n",
    "a\nb\n\n",
    "\n",
    "a\r\nb\rc\r\n",
    "{{ 'a\r\nb' }}",
    "  {% if true %}\n  a\n  {% endif %}\n  b",
    "x  {% if true %}  \n  a{% endif %}\n\n  b",
    "  {%+ if true %}\n  a\n  {%+ endif +%}\n  b",
    "  {%- if true -%}\n  a  \n  {%- endif -%}\n  b",
    "a {{- 'b' -}} c",
    "a  {# comment #}\n  b",
    "  {# comment #}\n  b {#- c -#}  d",
    "a {# multi\nline #}\nb",
    "a {#",
    "{% raw %}{{ a }} {% b %}{% endraw %}",
    "x\n  {% raw %}\n  {{ a }}\n  {% endraw %}\n y",
    "x {%- raw -%} {{ a }} {%- endraw -%} y",
    "{% raw %}a",
    "{{ '}}' }}{{ \"%}\" }}",
    "{{ {'a': {'b': 1}} }}",
    "{{ {'a': {'b': 1}}}}",
    "{% for x in [1, 2, 3] %}{{ x }}{% endfor %}",
    "{% for x in [] %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in [1] %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in [1, 2] %}{% continue %}{% else %}none{% endfor %}",
    "{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% break %}",
    "{% for x in [1] %}{% if true %}{% break %}{% endif %}{% else %}e{% endfor %}",
    "{% for x in [1, 2, 3] if x is odd %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}",
    "{% for x in 'ab' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {{ loop.cycle('a', 'b') }} {% endfor %}",
    "{% for x in [1] %}{{ loop }}{% endfor %}",
    "{% for x in [1] %}{{ loop.nothing }}{% endfor %}{{ loop }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }} {% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for x in none %}{% endfor %}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in undefined_name %}{{ x }}{% else %}empty{% endfor %}",
    "{% for x in messages | map(attribute='role') %}{{ x }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% set g = [1, 2] | map('string') %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}{{ x }}{% endfor %}!",
    "{% set g = [1, 2, 3] | select('odd') %}{{ g | first }}{{ g | list }}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% if true %}{% set y = 2 %}{% endif %}{{ y }}",
    "{% for i in [1] %}{% set y = 2 %}{% endfor %}{{ y is defined }}",
    "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b is defined }}{{ ns }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% set x = {} %}{% set x.a = 1 %}",
    "{% set x.a = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a, b = [1] %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x | length }}",
    "{% set x | upper | replace('A', 'x') %}a{{ 'b' }}{% endset %}{{ x }}",
    "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}",
    "{% set true = 1 %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}c",
    "{% filter replace('a', 'b') | upper %}aa{% endfilter %}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(a=5) }} {{ m() }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{% macro m() %}{{ late }}{% endmacro %}{% set late = 'now' %}{{ m() }}",
    "{% set g = 1 %}{% macro m() %}{{ g }}{% set g = 2 %}{{ g }}{% endmacro %}{{ m() }}{{ g }}",
    "{% macro m() %}x{% endmacro %}{{ m }}{{ m.name }}{{ m() | upper }}",
    "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m(xs) %}{% for x in xs %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(x) m([1, 2]) %}<{{ x }}>{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}b{% endmacro %}{{ a() }}",
    "{% macro m() %}  a\n{% endmacro %}{{ m() | trim }}",
    "{{ m() }}{% macro m() %}x{% endmacro %}",
    "{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}:{{ loop.depth }} {% endif %}{% endfor %}",
    "{% for x in [1] %}{{ loop([2]) }}{% endfor %}",
    "{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}",
    "{% if 0 %}a{% elif 2 %}b{% else %}c{% endif %}",
    "{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}",
    "{% if 0 %}a{% endif %}",
    "{% if true %}a",
    "{% endif %}",
    "{% if true %}{% endfor %}",
    "{% nothing %}",
    "{% if %}{% endif %}",
    "{{ }}",
    "{% %}",
    "{{ 1 }} {{",
    "{% generation %}a{{ 1 }}{% endgeneration %}b",
    "{%- generation -%}\n  a\n{%- endgeneration %}\nb",
    "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x is defined }}",
    "{% set ns = namespace(x=0) %}{% generation %}{% set ns.x = 1 %}{% endgeneration %}{{ ns.x }}",
    "{% block b %}in{% endblock %}",
    "{% block b %}in{% endblock b %}",
    "{% set x = 1 %}{% block b %}{{ x }}{% endblock %}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{% if false %}{% include 'x' %}{% endif %}ok",
    "{% autoescape false %}<{{ '<' }}{% endautoescape %}",
    "{% print 'a' %}",
    "{% do 1 %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "{% set j = joiner('; ') %}{% for x in [1, 2, 3] %}{{ j() }}{{ x }}{% endfor %}",
    "{% set x = messages[-1].content if messages else 'none' %}{{ x }}",
    "{%- for m in messages -%}\n{{- m.role }}: {{ m['content'] | trim -}}\n{%- endfor -%}\n",
    "{% for m in messages %}{{ loop.index0 % 2 == 0 }}{{ (m.role == 'user') != (loop.index0 % 2 == 0) }}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.role }}{% endfor %}",
    "{% for i in range(messages | length - 1, -1, -1) %}{{ i }}{% endfor %}",
    "{% set content = messages[0].content %}{% if content is string %}s{% elif content is iterable %}i{% endif %}",
    "{% set x = [] %}{% for i in [1, 2] %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=[]) %}{% for i in [1, 2] %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }}",
    "{%- set a = 1 -%}\n\n{%- set b = 2 %}\n\n{{ a + b }}",
    "{% if not loop %}x{% endif %}",
    "{{ range(3) | list }}{% set range = 5 %}{{ range }}",
    "{% for x in [1, 2] -%}\n  {{ x }}\n{%- endfor %}",
    "a{% if true %}\n\n\nb{% endif %}\n\n\nc",
    "   {{ 'x' }}\n   {% set y = 1 %}   \n{{ y }}",
    "\t{% if true %}\n\ttab\n\t{% endif %}\n",
    "{% set s = 'a\\nb' %}{{ s }}",
    "{{ 'unicode: \\u00e9 \\U0001f600 \\x41' }}",
    "{% if tools is iterable and tools | length > 0 %}T{% else %}N{% endif %}",
    "{% if tools %}T{% endif %}{% if tools is not none and tools is iterable %}I{% endif %}",
    "{% if (messages | length) % 2 == 1 and not tools %}x{% endif %}",
    "{% for m in messages if m.role != 'system' %}{{ m.role }}{{ loop.last }}{% endfor %}",
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}",
    "{{ '%s says %s' % (messages[0].role, messages[0].content) }}",
    "{{ '{role}: {content}'.format(**messages[0]) }}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | map('trim') | join(' / ') }}",
    "{{ messages[0].content.split('</think>')[-1].lstrip('\\n') }}",
    "{%- macro render(m) -%}{{ m.role }}{%- endmacro -%}{%- for m in messages -%}{{ render(m) }}{%- endfor -%}",
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}D{% endif %}{% endfor %}",
    "{#- head -#}\n{%- if messages[0].role == 'system' %}S{%- else %}N{%- endif %}\n",
    "{% set d = {'a': 1} %}{% for k, v in d | items %}{{ k }}{{ v }}{% endfor %}{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{{ 'a' if messages[0].tool_calls is defined and messages[0].tool_calls else 'b' }}",
    "{{ messages[0].tool_calls | default([]) | length }}",
    "{{ [1, 2, 3] | length if true }}{{ 'x' if none }}",
    "{{ 1 if true else }}",
    "{% for x in [3, 1, 2] | sort %}{{ x }}{{ ',' if not loop.last }}{% endfor %}",
]


def render(template, messages):
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
        return rendered[0]
    except Exception:  # any of Python's: the template fails
        return None


def main():
    talk = CONVERSATIONS[2][1:]
    chats = {}
    for path in sorted((OUT / "chat").glob("*.jinja")):
        source = path.read_bytes().decode()
        plain = [render(source, messages) for messages in CONVERSATIONS]
        tools = [render(TOOLS + source, messages) for messages in CONVERSATIONS]
        assert any(plain), f"{path}: it renders nothing"
        chats[path.stem] = {"plain": plain, "tools": tools}
    golden = {
        "conversations": CONVERSATIONS,
        "tools": TOOLS,
        "chats": chats,
        "talk": talk,
        "expressions": [[e, render("{{ (" + e + ") }}", talk)] for e in EXPRESSIONS],
        "statements": [[s, render(s, talk)] for s in STATEMENTS],
    }
    # An address is another one each time.
    assert all(" at 0x" not in (r or "") for _, r in golden["expressions"] + golden["statements"])
    text = json.dumps(golden, ensure_ascii=True, indent=0, separators=(",", ":"))
    (OUT / "golden.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
