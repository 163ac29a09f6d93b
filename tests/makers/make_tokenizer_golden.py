"""Makes tests/data/tokenizer/*.json: the ids that Hugging Face tokenizers and sentencepiece give for hard texts.

    pip install tokenizers sentencepiece protobuf gguf jinja2
    python tests/makers/make_tokenizer_golden.py [--model models/SmolLM2-135M-Instruct.Q4_1.gguf]

The vocabularies are trained here, small and on the texts themselves. The BPE one is trained without any splitting of
the text, so that its merges cross every boundary a splitting rule could draw: a wrong boundary shows in the ids.
"""

import argparse
import io
import json

import jinja2
import jinja2.ext
import jinja2.sandbox
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from shared import DATA

OUT = DATA / "tokenizer"

PROSE = [
    "The quick brown fox jumps over the lazy dog.",
    "It's what we're told; they'll say I'd've done it, won't I? IT'S WHAT WE'RE TOLD. 's 't 're 've 'm 'll 'd",
    "Hello   world", " leading", "trailing ", "  two  ", "a\tb\t\tc", "\t", " ", "  ", "   ", "", "\n", "\n\n\n", "\r\n", "\r\n\r\n",
    " \n \n  x", "x\n\n  y\n", "a \r\n b", "tab\t \tmix \t\n end", "no-break\u00a0space\u2003em\u3000wide\u0085nel\u200bzero",
    "2024-11-24 12:34:56.789012 1,000,000.00 007 3.14e-10 0xFF",
    "1 12 123 1234 12345 123456 1234567890123456789", "x1y22z333", "\u0661\u0662\u0663 \u09e7\u09e8 \u2167 \u00bd \u00b2\u00b3 \u2460",
    "Don\u2019t \u201cquote\u201d \u2014 dash\u2026 \u00a1hola! \u00bfqu\u00e9?",
    "HTMLParser getElementById snake_case kebab-case CamelCaseABCDef aBC DEf \u01c5 \u02b0A A\u02b0b",
    "Dun\u017fT '\u017f 'S 'T 'RE 'Ll",
]
CODE = [
    "fn main() {\n    let x: Vec<u8> = vec![0; 16];\n    println!(\"{:?}\", x);\n}\n",
    "def f(x):\n\treturn {k: v for k, v in x.items()} # ok\n\n\nif __name__ == '__main__':\n    f({})\n",
    "#include <stdio.h>\r\nint main(void)\r\n{\r\n\treturn 0; /* \\0 */\r\n}\r\n",
    "SELECT * FROM t WHERE a<=b AND c<>d; -- ///// ===== ~~~ ``` $$ ^^ || +=",
    "https://example.org/a/b?c=d&e=%20#f user@example.org C:\\dir\\file.txt /usr/lib/",
    "<html><body class=\"a\">&nbsp;</body></html>",
]
WORLD = [
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002\u4e2d\u6587\u5b57\u7b26\uff0c\u6d4b\u8bd5\uff01\ud55c\uad6d\uc5b4 \ubb38\uc7a5.",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    "e\u0301 vs \u00e9, n\u0303, a\u0308\u0301\u0323 Z\u0351\u036b\u0343a\u0313\u0312l\u0334g\u0321o\u0338 \u1e69 s\u0323\u0307 \u212b \ufb01",
    "\u1112\u1161\u11ab\u1100\u1173\u11af vs \ud55c\uae00",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3 \U0001f1e9\U0001f1ea",
    "abc\u65e5\u672c123\u0434\u0430\U0001f600def \u00fc\u00f6\u00e4\u00df \u0130\u0131 \u01c4 \U0001d400\U0001d7d8 \U00010400\U00010428",
    "\ufffd\ufffd bad \ufffdbytes\ufffd \u0000\u0001\u001f\u007f \ufeffbom \u202eRTL\u202c",
    "\uff21\uff22\uff23\uff11\uff12\uff13 \uff5e\uff01 \u3000\u3002 \u00d7 \u2211 \u221a2 \u20ac5 \u00a7 \u00b5 \u00b0",
]
LONG = ["a" * 300, "ab" * 150, " " * 70 + "x", "\n" * 33, "-" * 100, "9" * 40, "\u65e5" * 60, "\u0301" * 20, "\U0001f600" * 20, "Donaudampfschifffahrtsgesellschaft" * 4, "a b " * 40]
SPECIAL = [
    "<s>", "</s>", "<unk>", "<s>hello</s> world<s>", "x</s>\n<|im_start|>user\nhi <|im_end|>\n", "<|im_start|><|im_start|>",
    "<tool><tool_call></tool>", "a <tool> b", "  <tool>  ", "<|im_start", "<0x0A><0xFF>", "<\u65e5>\u65e5<s>\U0001f600</s>",
]
CORPUS = PROSE + CODE + WORLD + LONG + SPECIAL

CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool>", "<tool_call>", "</tool>"]
NORMAL_TYPE, UNKNOWN_TYPE, CONTROL_TYPE, USER_TYPE, UNUSED_TYPE, BYTE_TYPE = 1, 2, 3, 4, 5, 6

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL


def cased(suffix, digits):
    first = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{suffix}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{suffix}"
    return first + rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + TAIL


def split(*patterns):
    steps = [p if not isinstance(p, str) else pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2(*before):
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# As the models' tokenizer.json files have them: (pre-tokenizer, whole words, NFC).
PRE = {
    "gpt-2": (gpt2(), False, False),
    "smollm": (gpt2(pre_tokenizers.Digits(individual_digits=True)), False, False),
    "command-r": (gpt2(pre_tokenizers.Digits(individual_digits=True)), False, True),
    "llama-bpe": (split(LLAMA3), True, False),
    "qwen2": (split(LLAMA3.replace("{1,3}", "")), False, True),
    "deepseek-r1-qwen": (split(LLAMA3.replace("{1,3}", "")), False, False),
    "qwen35": (
        split(CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL), False, True,
    ),
    "gpt-4o": (split(cased(CONTRACTIONS + "?", r"\p{N}{1,3}")), False, False),
    "tekken": (split(cased("", r"\p{N}")), True, False),
    "deepseek-coder": (split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, pre_tokenizers.Digits(True)), False, False),
    "deepseek-v3": (
        split(
            r"\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"| ?[\p{P}\p{S}]+[\r\n]*|" + TAIL,
        ),
        False,
        False,
    ),
    "seed-coder": (
        split(CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + TAIL), False, False,
    ),
    "bailingmoe": (
        split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        False,
        False,
    ),
    "bloom": (split(" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"), False, False),
    # What llama.cpp does for files that name no rules; no model's own tokenizer.
    "default": (
        split(r"[\p{P}\$\+<=>\^~\|]+", GPT2, pre_tokenizers.Digits(individual_digits=False), "[0-9][0-9][0-9]"),
        False,
        False,
    ),
}


def train_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1
    )
    # Short texts, so that merges are short too and many.
    texts = [t for t in CORPUS if len(t) < 200 and t not in SPECIAL] + [t[:24] for t in LONG]
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def make_bpe():
    vocab, merges = train_bpe()
    tokens = sorted(vocab, key=vocab.get)
    types = [NORMAL_TYPE] * len(tokens) + [CONTROL_TYPE] * len(CONTROL) + [USER_TYPE] * len(USER_DEFINED)
    golden = {
        "tokens": tokens + CONTROL + USER_DEFINED,
        "token_type": types,
        "merges": [" ".join(m) for m in merges],
        "ids": {},
    }
    for name, (pre, whole_words, nfc) in PRE.items():
        golden["ids"][name] = [encode(bpe(vocab, merges, pre, whole_words, nfc), t) for t in CORPUS]
    write("bpe.json", golden)


def bpe(vocab, merges, pre, whole_words, nfc):
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    add_special(tokenizer)
    return tokenizer


def add_special(tokenizer):
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in USER_DEFINED])


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


SPM = {
    # Llama 2's settings, Gemma's, and one without bytes where unknown characters show.
    "llama": dict(byte_fallback=True, add_dummy_prefix=True),
    "gemma": dict(byte_fallback=True, add_dummy_prefix=False, user_defined_symbols=["<tool>", "<tool_call>", "\u2581\u2581\u2581", "\n\n"]),
    "no_bytes": dict(byte_fallback=False, add_dummy_prefix=True, user_defined_symbols=["<tool>"]),
    "unused": dict(byte_fallback=True, add_dummy_prefix=True),
}


def train_spm(name, **settings):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([line for t in CORPUS * 3 for line in t.split("\n") if line.strip("\0\r")]),
        model_writer=model, model_type="bpe", vocab_size=900, character_coverage=0.98, num_threads=1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, max_sentence_length=1000, hard_vocab_limit=False, **settings,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    if name == "unused":
        for piece in proto.pieces[300::3]:
            if piece.type == NORMAL_TYPE and len(piece.piece) > 1:
                piece.type = UNUSED_TYPE
    return proto


def make_spm():
    golden = {}
    for name, settings in SPM.items():
        proto = train_spm(name, **settings)
        processor = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())
        golden[name] = {
            "tokens": [p.piece for p in proto.pieces],
            "scores": [p.score for p in proto.pieces],
            "token_type": [p.type for p in proto.pieces],
            "add_space_prefix": settings["add_dummy_prefix"],
            "plain": [processor.encode(t) for t in CORPUS],
            "decoded": [processor.decode(processor.encode(t)) for t in CORPUS],
        }
        if name == "llama":
            fast = hugging_face_llama(proto)
            golden[name]["parsed"] = [encode(fast, t) for t in CORPUS]
    write("spm.json", golden)


def hugging_face_llama(proto):
    """The tokenizer that transformers makes of a Llama 2 checkpoint."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    merges = []
    for piece in proto.pieces:
        pairs = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
        pairs = [(a, b) for a, b in pairs if a in vocab and b in vocab]
        merges += [(-piece.score, vocab[a], vocab[b], (a, b)) for a, b in pairs if piece.type == NORMAL_TYPE]
    merges = [m[-1] for m in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    return tokenizer


def make_smollm2(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    pre = PRE[fields["tokenizer.ggml.pre"].contents()][0]
    vocab = {t: i for i, (t, kind) in enumerate(zip(tokens, types))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types) if kind == CONTROL_TYPE]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    template = fields["tokenizer.chat_template"].contents()
    rendered = [render(template, c, "<|im_start|>", "<|im_end|>") for c in CONVERSATIONS]
    write("smollm2.json", {"ids": [encode(tokenizer, t) for t in CORPUS], "rendered": rendered})


def turn(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [turn("user", "Hello")],
    [turn("system", "Be brief."), turn("user", " Who are you? ")],
    [turn("system", "S"), turn("user", "1 < 2 & \"3\"?"), turn("assistant", "Yes.\n"), turn("user", "\u65e5\u672c\n")],
    [turn("user", "a"), turn("user", "b")],
]

# In the formats of the models; written for these tests.
TEMPLATES = {
    "chatml": """{%- for message in messages -%}
    {%- if loop.first and message.role != 'system' -%}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' ~ message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
""",
    "llama2": """{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
    {% set system = messages[0]['content'] %}
{% else %}
    {% set rest = messages %}
    {% set system = false %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant') }}
    {% endif %}
    {% set text = message['content'] %}
    {% if loop.index0 == 0 and system is not false %}
        {% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + text %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{ ' ' + text | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}
""",
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = 'today' %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- tool_call.arguments | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "corners": """{% macro show(m, sep=': ') %}{{ m.role|upper }}{{ sep }}{{ m.content|replace('\\n', ' ') }}{% endmacro %}
{#- a comment -#}
  {% for m in messages if m.role != 'system' %}
    {%+ if not loop.first %}{{ loop.index }}/{{ loop.length }} {% endif %}
{{ show(m, sep=' = ') }}
  {%- if m.content.endswith('\\n') %}{% continue %}{% endif %}
  {% if loop.index > 2 %}{% break %}{% endif %}
{% else %}
none
{% endfor %}
{{ messages|tojson }}
{{ messages[0]|tojson(indent=2) }}
{{ messages|map(attribute='role')|join(',') }} {{ messages|length }} {{ messages[-1].content.split(' ')|list }}
{{ 'yes' if messages|selectattr('role', 'equalto', 'assistant')|list|length > 0 else 'no' }} {{ nothing }}{{ none }}
{{ true }} {{ 1.0 }} {{ 7 // 2 }} {{ 'a' in 'abc' }} {{ "%s-%d"|format('x', 3) }} {{ 'ab'[::-1] }} {{ messages[0].items()|list|length }}
""",
}


def render(template, messages, bos, eos):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    # The environment of transformers' chat templates.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=lambda f: "now")
    values = dict(messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos, tools=None, documents=None)
    try:
        return environment.from_string(template).render(values)
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}


def make_chat():
    golden = {"conversations": CONVERSATIONS, "templates": {}}
    for name, template in TEMPLATES.items():
        rendered = [render(template, c, "<s>", "</s>") for c in CONVERSATIONS]
        golden["templates"][name] = {"source": template, "rendered": rendered}
    write("chat.json", golden)


def write(name, value):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    arguments = parser.parse_args()
    write("corpus.json", CORPUS)
    make_bpe()
    make_spm()
    make_chat()
    make_smollm2(arguments.model)


if __name__ == "__main__":
    main()
