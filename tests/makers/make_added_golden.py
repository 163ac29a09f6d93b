#!/usr/bin/env python3
"""Writes tests/data/convert/added.json: the ids that Hugging Face tokenizers gives where a tokenizer's rules put spaces before
parts of a text and where added tokens take white space with them (package tokenizers)."""

import itertools
import json

from tokenizers import Tokenizer, pre_tokenizers

from shared import DATA

TARGET = DATA / "convert/added.json"
TEXTS = [
    "user hi", "<|a|>user\nhi<|a|>\n", " hi<|a|> hi", "hi <tool> user", "hi<tool>hi", "  <tool>  hi", "<|a|><tool>user",
    "user<|a|>  <|a|>hi", "hi  hi", "<s>hi</s> hi", "h\u00e9 <tool>", "<tool>", " ", "hi<tool> <|a|> user", "<tool>\u0301 hi",
    "\u2581hi<|a|>\u2581hi", "hi\t<|a|>\t<tool> <|a|>", "_<tool>_ <tool>,<tool>9",
]
PIECES = "▁ u s e r h i us er user ▁user hi ▁hi ▁▁ i▁ i▁h".split()
MERGES = ["u s", "e r", "us er", "▁ user", "h i", "▁ hi", "▁ ▁", "i ▁", "i▁ h"]
ADDED = ["<|a|>", "<tool>"]

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
DOUBLE = {"type": "Replace", "pattern": {"Regex": "\\A▁"}, "content": "▁▁"}


def sequence(*normalizers):
    return {"type": "Sequence", "normalizers": list(normalizers)}


def metaspace(scheme, split=False):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def byte_level(prefix):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}


SPACES = {
    "first": (None, metaspace("first")),
    "always": (None, metaspace("always")),
    "never": (None, metaspace("never")),
    "old": (None, {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "split": False}),
    "split": (None, metaspace("first", True)),
    "prepend": (sequence({"type": "Prepend", "prepend": "▁"}, REPLACE), None),
    "replace": (REPLACE, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}),
    "doubled": (sequence(REPLACE, DOUBLE), metaspace("always")),
    "bytes": (None, byte_level(False)),
    "prefixed bytes": (None, byte_level(True)),
    "normal bytes": ({"type": "NFC"}, byte_level(False)),
}
FLAGS = {
    "none": {},
    "strip": {"<|a|>": ["lstrip"], "<tool>": ["rstrip"]},
    "word": {"<|a|>": ["rstrip"], "<tool>": ["single_word"]},
    "normalized": {"<|a|>": ["normalized"], "<tool>": ["normalized", "lstrip"]},
    "one normalized": {"<tool>": ["normalized"]},
    "both strip": {"<|a|>": ["lstrip", "rstrip"], "<tool>": ["lstrip", "rstrip", "single_word"]},
}


def base(is_bytes):
    """The tokenizer without its rules."""
    if is_bytes:
        special, vocab = [], sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        special, vocab = ["<unk>", "<s>", "</s>"], ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    spell = (lambda text: text.replace("▁", "\u0120")) if is_bytes else (lambda text: text)
    vocab = list(dict.fromkeys(vocab + [spell(piece) for piece in PIECES]))
    added = [(text, True) for text in special] + [(text, text == "<|a|>") for text in ADDED]
    ids = {text: vocab.index(text) if text in vocab else len(vocab) + ADDED.index(text) for text, _ in added}
    off = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    parts = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    return {
        "version": "1.0",
        "added_tokens": [{"id": ids[text], "content": text, "special": is_special, **off} for text, is_special in added],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": byte_level(True) if is_bytes else {"type": "Sequence", "decoders": parts},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None if is_bytes else "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": not is_bytes, "byte_fallback": not is_bytes, "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(vocab)}, "merges": [spell(merge) for merge in MERGES],
        },
    }


def main():
    bases = {"pieces": base(False), "bytes": base(True)}
    cases = []
    for (name, (normalizer, pre)), (flags, marks) in itertools.product(SPACES.items(), FLAGS.items()):
        kind = "bytes" if "bytes" in name else "pieces"
        tokenizer = json.loads(json.dumps(bases[kind])) | {"normalizer": normalizer, "pre_tokenizer": pre}
        for token in tokenizer["added_tokens"]:
            token.update({flag: True for flag in marks.get(token["content"], [])})
        own = Tokenizer.from_str(json.dumps(tokenizer))
        ids = [own.encode(text, add_special_tokens=False).ids for text in TEXTS]
        changes = {key: tokenizer[key] for key in ("normalizer", "pre_tokenizer", "added_tokens")}
        cases.append({"name": f"{name}, {flags}", "base": kind, "changes": changes, "ids": ids})
    golden = {"texts": TEXTS, "bases": bases, "cases": cases}
    TARGET.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
