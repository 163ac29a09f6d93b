#!/usr/bin/env python3
"""Makes tests/data/convert: tiny seeded checkpoints as Hugging Face transformers saves them, with the logits it gives.

    make_convert_golden.py opt [FOLDER]                 the OPT variants
    make_convert_golden.py llama LLAMA_CPP [FOLDER]     the Llama variants, and what llama.cpp's converter makes of them
    make_convert_golden.py others LLAMA_CPP [FOLDER [NAME ...]]    one checkpoint of each other architecture, and the same

Needs the Python packages torch, transformers, tokenizers, sentencepiece, protobuf, safetensors and gguf; LLAMA_CPP is a
source tree of llama.cpp that has `convert_hf_to_gguf.py` and `conversion/`.
"""

import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from shared import DATA

DEFAULT = DATA / "convert"
N_CONTEXT = 64
N_TOKENS = 48

TEXT = [
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    "The sun is a star; the stars are suns. What the eye sees is not what the hand holds, they said.",
    "In 1969 there were 12 of them, in 2024 there were 345678.",
]

OPT_SMALL = {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4}
OPT = {
    "opt-prenorm": OPT_SMALL,
    "opt-350m-like": {**OPT_SMALL, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "opt-galactica-like": {**OPT_SMALL, "enable_bias": False, "layer_norm_elementwise_affine": False,
                           "activation_function": "gelu", "bos_token_id": 0},
}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("opt", "llama", "others"):
        sys.exit(__doc__)
    elif sys.argv[1] == "opt":
        make_opt(Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT)
    elif len(sys.argv) < 3:
        sys.exit(__doc__)
    else:
        llama_cpp, root = Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else DEFAULT
        make_llama(llama_cpp, root) if sys.argv[1] == "llama" else make_others(llama_cpp, root, sys.argv[4:] or list(OTHERS))


def make_opt(root):
    for seed, (name, options) in enumerate(OPT.items(), start=1):
        folder = fresh(root / name)
        tokenizer = opt_tokenizer(galactica=name == "opt-galactica-like")
        save_opt_tokenizer(folder, name, tokenizer)
        config = OPTConfig(
            # Five rows more than there are tokens: checkpoints are padded.
            vocab_size=tokenizer.get_vocab_size() + 5,
            num_hidden_layers=3,
            max_position_embeddings=N_CONTEXT,
            dropout=0.0,
            attn_implementation="eager",
            **{"word_embed_proj_dim": options["hidden_size"], **options},
        )
        model = OPTForCausalLM(config).eval()
        fill(model, seed)
        save_logits(folder, model, seed, tokenizer.get_vocab_size())
        model.half()
        if name == "opt-prenorm":
            # As the published checkpoints are: a pickle, and no `model.` in front of the names.
            model.config.architectures = ["OPTForCausalLM"]
            model.config.save_pretrained(folder)
            state = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
            del state["lm_head.weight"]
            torch.save(state, folder / "pytorch_model.bin")
        else:
            model.save_pretrained(folder)
        clean(folder)


def opt_tokenizer(galactica):
    """GPT-2's byte-level BPE with OPT's special tokens, or with Galactica's single digits."""
    tokenizer = Tokenizer(models.BPE())
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]) if galactica else gpt2
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if not galactica:
        tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return tokenizer


def save_opt_tokenizer(folder, name, tokenizer):
    """One as GPT-2's two files, as OPT is published; the others as tokenizer.json."""
    bos = "<s>" if name == "opt-galactica-like" else "</s>"
    roles = {"bos_token": bos, "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "errors": "replace", **roles}
    if name == "opt-galactica-like":
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        config["add_bos_token"] = True
    if name == "opt-prenorm":
        tokenizer.model.save(str(folder))
        write_json(folder / "special_tokens_map.json", roles)
    else:
        tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)


LLAMA_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = {
    # Llama 2: SentencePiece, f16 in several safetensors files, a head of its own, an unused end of the vocabulary.
    "llama-spm": (torch.float16, LLAMA_SMALL),
    # Llama 3: byte-level BPE, bf16 in one file, tied, scaled frequencies, heads wider than hidden_size / n_head.
    "llama-bpe": (
        torch.bfloat16,
        {**LLAMA_SMALL, "tie_word_embeddings": True, "head_dim": 16, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    ),
    # SmolLM's digits, f32 in two pickles, biases everywhere, yarn.
    "llama-bin": (
        torch.float32,
        {**LLAMA_SMALL, "attention_bias": True, "mlp_bias": True, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 20000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 16.0}},
    ),
    # Llama 2's tokenizer as tokenizer.json alone, linear scaling, names as old files have them.
    "llama-hf": (torch.float16, {**LLAMA_SMALL, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
}
CHAT = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
CARD = """---
license: apache-2.0
language:
- en
- "no"
tags: [tiny, "made up"]
pipeline_tag: text-generation
base_model: someone/Tiny-Base-1B
datasets:
- someone/wiki-text
model-index:
- name: x
  results: []
---
# Not a model
"""


def make_llama(llama_cpp, root):
    for seed, (name, (dtype, options)) in enumerate(LLAMA.items(), start=11):
        folder = fresh(root / name)
        n_tokens, ids = TOKENIZERS[name](folder)
        options = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, **options}
        config = LlamaConfig(
            vocab_size=n_tokens + 3,
            num_hidden_layers=2,
            max_position_embeddings=N_CONTEXT,
            rms_norm_eps=1e-5,
            bos_token_id=1 if name in ("llama-spm", "llama-hf") else 0,
            eos_token_id=2 if name in ("llama-spm", "llama-hf") else 1,
            attn_implementation="eager",
            **options,
        )
        model = LlamaForCausalLM(config).eval()
        fill(model, seed, dtype)
        save_logits(folder, model, seed, n_tokens, n=16)
        save_llama(folder, name, model.to(dtype))
        clean(folder)
        write_json(folder / "ids.json", ids)
        write_json(folder / "expected.json", converted(llama_cpp, folder))
    write_json(root / "names.json", names(llama_cpp))
    write_json(root / "pre.json", pre_tokenizer_files())


def save_llama(folder, name, model):
    if name == "llama-spm":
        model.generation_config.update(temperature=0.6, top_p=0.9, do_sample=True)
        model.save_pretrained(folder, max_shard_size="60KB")
        (folder / "README.md").write_text(CARD)
    elif name == "llama-bin":
        model.config.architectures = ["LlamaForCausalLM"]
        model.config.save_pretrained(folder)
        save_pickles(folder, model.state_dict())
    else:
        model.save_pretrained(folder)
    if name == "llama-hf":
        # As transformers before 5 wrote it.
        config = json.loads((folder / "config.json").read_text())
        rope = config.pop("rope_parameters")
        config.update(rope_theta=rope["rope_theta"], rope_scaling={"type": rope["rope_type"], "factor": rope["factor"]})
        config.update(torch_dtype=config.pop("dtype"), _name_or_path="someone/Tiny-Llama-2-chat-hf")
        write_json(folder / "config.json", config)


def save_pickles(folder, state):
    names, parts = list(state), {}
    for i, part in enumerate([names[: len(names) // 2], names[len(names) // 2 :]], start=1):
        file = f"pytorch_model-0000{i}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        parts.update((name, file) for name in part)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": parts})


def spm_tokenizer(folder):
    import make_tokenizer_golden as golden
    import sentencepiece

    proto = golden.train_spm("llama", byte_fallback=True, add_dummy_prefix=True)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    n = len(proto.pieces)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "added_tokens.json", {"<pad>": n, "<tool>": n + 1})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False,
        **special, "chat_template": CHAT,
        "added_tokens_decoder": {str(n): {"content": "<pad>", "special": True}, str(n + 1): {"content": "<tool>", "special": False}},
    })
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    texts = golden.PROSE + golden.CODE + golden.WORLD + golden.LONG
    return n + 2, [processor.encode(text) for text in texts]


def hf_tokenizer(folder):
    """Llama 2's kind of tokenizer.json: the same BPE, as merges."""
    import make_tokenizer_golden as golden

    special = ["<unk>", "<s>", "</s>"]
    texts = golden.PROSE + golden.CODE + golden.WORLD + golden.LONG
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special + bytes_, limit_alphabet=200, show_progress=False)
    tokenizer.train_from_iterator([t[:40] for t in texts], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] in special]
    write_json(folder / "tokenizer.json", raw)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
               "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True}, "unk_token": "<unk>"})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size(), [tokenizer.encode(text, add_special_tokens=False).ids for text in texts if text]


def bpe_tokenizer(pre, control, user, whole_words):
    import make_tokenizer_golden as golden

    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=control, show_progress=False
    )
    tokenizer.train_from_iterator([t for t in golden.CORPUS if len(t) < 200 and t not in golden.SPECIAL], trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in user])
    return tokenizer, golden.CORPUS


def llama3_tokenizer(folder):
    import make_tokenizer_golden as golden

    control = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer, corpus = bpe_tokenizer(golden.split(golden.LLAMA3), control, ["<tool>"], True)
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
               "eos_token": "</s>", "model_max_length": 64})
    (folder / "chat_template.jinja").write_text(CHAT)
    return tokenizer.get_vocab_size(), [tokenizer.encode(text, add_special_tokens=False).ids for text in corpus]


def smollm_tokenizer(folder):
    import make_tokenizer_golden as golden

    pre = golden.gpt2(pre_tokenizers.Digits(individual_digits=True))
    tokenizer, corpus = bpe_tokenizer(pre, ["<s>", "</s>"], ["<tool>", "<tool_call>", "</tool>"], False)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>",
               "unk_token": "</s>", "add_prefix_space": False,
               "chat_template": [{"name": "default", "template": CHAT}, {"name": "tool-use", "template": CHAT + "!"}]})
    return tokenizer.get_vocab_size(), [tokenizer.encode(text, add_special_tokens=False).ids for text in corpus]


TOKENIZERS = {"llama-spm": spm_tokenizer, "llama-bpe": llama3_tokenizer, "llama-bin": smollm_tokenizer, "llama-hf": hf_tokenizer}
PRE_NAMES = {"llama-bpe": "llama-bpe", "llama-bin": "smollm", "qwen2": "qwen2", "qwen3": "qwen2", "smollm3": "llama-bpe", "granite": "smollm",
             "olmo2": "llama-bpe", "starcoder2": "smollm"}


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
# The classes of transformers by the beginning of their names, and what is not as in SMALL. All are in bf16, as published.
OTHERS = {
    # A head of its own, two tokens that end a generation.
    "qwen2": ("Qwen2", {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "use_sliding_window": False, "sliding_window": 32,
        "tie_word_embeddings": False}),
    # Norms of queries and keys, heads wider than hidden_size / n_head, yarn.
    "qwen3": ("Qwen3", {
        "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 4 * N_CONTEXT, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 100000.0, "factor": 4.0, "original_max_position_embeddings": 16}}),
    # Six layers of a pattern and one more; the prompt is longer than the window; scaled as the larger ones are.
    "gemma3": ("Gemma3", {
        "num_hidden_layers": 7, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "query_pre_attn_scalar": 16, "sliding_window": 8, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}),
    # Soft caps of scores and logits, every other layer with a window.
    "gemma2": ("Gemma2", {
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    # Layers without rotation; four factors; norms before the sums; windows in all layers, shorter than the prompt.
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "intermediate_size": 32}),
    "granite": ("Granite", {
        "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22, "attention_multiplier": 0.015625,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0}, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "starcoder2": ("Starcoder2", {"sliding_window": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 999999.4420358813}}),
    # Gemma 3 beside an encoder of images, which is left out.
    "gemma3-images": ("Gemma3", {
        "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16,
        "sliding_window": 8}),
}
IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def make_others(llama_cpp, root, names):
    for seed, (name, (family, options)) in enumerate(OTHERS.items(), start=31):
        if name not in names:
            continue
        folder = fresh(root / name)
        n_tokens, ids, roles = OTHER_TOKENIZERS[name](folder)
        config_class = getattr(transformers, f"{family}TextConfig", None) or getattr(transformers, f"{family}Config")
        config = config_class(**{
            **SMALL, "vocab_size": n_tokens + 3, "max_position_embeddings": N_CONTEXT, "attn_implementation": "eager", **roles, **options})
        if name == "gemma3-images":
            config = transformers.Gemma3Config(
                text_config=config, vision_config=transformers.SiglipVisionConfig(**IMAGES), mm_tokens_per_image=4,
                eos_token_id=roles["eos_token_id"], image_token_index=n_tokens, boi_token_index=n_tokens + 1, eoi_token_index=n_tokens + 2)
            model = transformers.Gemma3ForConditionalGeneration(config).eval()
        else:
            model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        # Gemma adds one to the weights of its norms.
        fill(model, seed, torch.bfloat16, norm=0.0 if family.startswith("Gemma") else 1.0)
        save_logits(folder, model, seed, n_tokens, n=16)
        model = model.to(torch.bfloat16)
        ends = [roles["eos_token_id"], roles["pad_token_id"]] if family.startswith("Qwen") else roles["eos_token_id"]
        model.generation_config.update(eos_token_id=ends, do_sample=True, temperature=0.7, top_k=20, top_p=0.8)
        model.save_pretrained(folder, max_shard_size="60KB")
        clean(folder)
        write_json(folder / "ids.json", ids)
        write_json(folder / "expected.json", converted(llama_cpp, folder))


def qwen_tokenizer(folder):
    """Qwen's byte-level BPE: no token before a text, special tokens behind the vocabulary, others among them."""
    import make_tokenizer_golden as golden

    pre, _, _ = golden.PRE["qwen2"]
    tokenizer, corpus = bpe_tokenizer(pre, [], [], False)
    tokenizer.normalizer = normalizers.NFC()
    control, user = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "</tool_call>", "<think>", "</think>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in user])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(tokenizer.token_to_id(t)): {"content": t, "special": t in control, "normalized": False, "lstrip": False,
                                             "rstrip": False, "single_word": False} for t in control + user}
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": control[1:],
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
        "chat_template": CHAT, "tokenizer_class": "PreTrainedTokenizerFast"})
    roles = {"eos_token_id": tokenizer.token_to_id("<|im_end|>"), "pad_token_id": tokenizer.token_to_id("<|endoftext|>")}
    return tokenizer.get_vocab_size(), [tokenizer.encode(text, add_special_tokens=False).ids for text in corpus], roles


def gemma_tokenizer(folder):
    """Gemma's SentencePiece, in both its forms: no space before a text, tokens for runs of spaces and for turns."""
    import make_tokenizer_golden as golden
    import sentencepiece

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    user = ["<tool>", "\u2581\u2581", "\u2581\u2581\u2581", "\n", "\n\n"]
    turns = ["<start_of_turn>", "<end_of_turn>"]
    proto = golden.train_spm(
        "gemma", byte_fallback=True, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", bos_piece="<bos>",
        eos_piece="<eos>", user_defined_symbols=turns + user)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    plain = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    added = {str(ids[t]): {"content": t, "special": t in special + turns, **plain} for t in special + turns + user}
    config = {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>", "eos_token": "<eos>",
        "pad_token": "<pad>", "unk_token": "<unk>", "added_tokens_decoder": added, "chat_template": CHAT, "legacy": True}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "pad", "unk")})
    write_json(folder / "tokenizer.json", gemma_json(proto, added))
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    roles = {"bos_token_id": 2, "eos_token_id": [1, ids["<end_of_turn>"]], "pad_token_id": 0}
    return len(proto.pieces), [processor.encode(text) for text in golden.PROSE + golden.CODE + golden.WORLD + golden.LONG], roles


def gemma_json(proto, added):
    """The merges behind the pieces: the pair that makes a better piece comes first."""
    pieces = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = []
    for piece in proto.pieces:
        pairs = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
        pairs = [(a, b) for a, b in pairs if a in pieces and b in pieces and piece.type == 1]
        merges += [(-piece.score, pieces[a], pieces[b], [a, b]) for a, b in pairs]
    merges = [merge for *_, merge in sorted(merges)]
    return {
        "version": "1.0", "added_tokens": [{"id": int(i), **token} for i, token in added.items()],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": pieces, "merges": merges},
    }


def with_roles(make):
    """One of the Llama variants' tokenizers."""
    return lambda folder: (*make(folder), {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None})


OTHER_TOKENIZERS = {
    "qwen2": qwen_tokenizer, "qwen3": qwen_tokenizer, "gemma3": gemma_tokenizer, "gemma3-images": gemma_tokenizer, "gemma2": gemma_tokenizer,
    "smollm3": with_roles(llama3_tokenizer), "granite": with_roles(smollm_tokenizer), "olmo2": with_roles(llama3_tokenizer),
    "starcoder2": with_roles(smollm_tokenizer),
}


def converted(llama_cpp, folder):
    """What llama.cpp's converter writes, for each type: a hash of the whole file, and what is in it."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import convert_hf_to_gguf
    import gguf
    from conversion.base import TextModel

    # It knows tokenizers by hashes of what they make of a text; ours is in no list.
    TextModel.get_vocab_base_pre = lambda self, tokenizer: PRE_NAMES[self.dir_model.name]
    result = {}
    for outtype in ("f32", "f16", "bf16", "q8_0", "auto"):
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "out.gguf"
            sys.argv = ["convert", str(folder), "--outfile", str(path), "--outtype", outtype]
            convert_hf_to_gguf.main()
            reader = gguf.GGUFReader(path)
            result[outtype] = {
                "fnv": fnv(path.read_bytes()),
                "tensors": [[t.name, t.tensor_type.name.lower(), [int(d) for d in t.shape], fnv(t.data.tobytes())] for t in reader.tensors],
            }
            keys = {key: value(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
            if outtype == "f32":
                result["keys"] = keys
            result[outtype]["file_type"] = keys.pop("general.file_type")
            if keys != {k: v for k, v in result["keys"].items() if k != "general.file_type"}:
                sys.exit(f"error: {folder.name}: the keys depend on the type")
    return result


def value(field):
    """Type and content; long lists as length and hash of their JSON lines."""
    content = field.contents()
    kind = "/".join(t.name.lower() for t in field.types)
    if isinstance(content, list) and len(content) > 8:
        return [kind, len(content), fnv("".join(f"{x}\n" for x in content).encode())]
    return [kind, content]


def fnv(data):
    """FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def names(llama_cpp):
    """How llama.cpp's gguf package takes names of models apart."""
    sys.path[:0] = [str(llama_cpp / "gguf-py")]
    import gguf

    cases = []
    for name, total in [
        ("meta-llama/Llama-2-7b-hf", 6738415616), ("Llama-3.2-1B-Instruct", 1235814432), ("SmolLM2-135M-Instruct", 134515008),
        ("facebook/opt-125m", 125239296), ("opt-350m", 331196416), ("galactica-1.3b", 1315758080), ("TinyLlama-1.1B-Chat-v1.0", 1100048384),
        ("Mixtral-8x7B-Instruct-v0.1", 46702792704), ("bloom-7b1", 7069016064), ("some model of mine", 1000), ("./local", 1000),
        ("CodeLlama-7b-Python-hf", 6738546688), ("Yarn-Llama-2-7b-128k", 6738415616), ("phi-3-mini-128k-instruct", 3821079552),
        ("llama", 5), ("a--b", 5), ("v1.0", 5), ("X-q4_0-fp16", 5), ("gpt-xl-large", 1500000000), ("DeepSeek-R1-Distill-Llama-8B", 8030261312),
        ("Nous-Hermes-2-Vision-7B", 7000000000), ("opt-iml-max-1.3b", 1315758080), ("llama-7b-lora", 6738415616),
    ]:
        full, org, basename, finetune, version, size = gguf.Metadata.get_model_id_components(name, total)
        title = gguf.Metadata.id_to_title(full) if full else None
        cases.append({"id": name, "total": total, "title": title, "organization": gguf.Metadata.id_to_title(org) if org else None,
                      "basename": basename, "finetune": finetune, "version": version, "size_label": size,
                      "counted": gguf.size_label(total, total, 0, 0)})
    return cases


def pre_tokenizer_files():
    """The parts of tokenizer.json that say how text is split, for the rules that tests/data/tokenizer/bpe.json has ids for."""
    import make_tokenizer_golden as golden

    files = {}
    for name, (pre, whole_words, nfc) in golden.PRE.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
        tokenizer.pre_tokenizer = pre
        if nfc:
            tokenizer.normalizer = normalizers.NFC()
        raw = json.loads(tokenizer.to_str())
        raw["model"]["vocab"] = {}
        files[name] = {key: raw[key] for key in ("normalizer", "pre_tokenizer", "model")}
    return files


def fill(model, seed, dtype=torch.float16, norm=1.0):
    """Weights that the type can hold, so that a checkpoint in it and these logits in f32 are of one model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                noise = norm + 0.2 * noise
            elif parameter.dim() == 1:
                noise = 0.2 * noise
            elif "embed_positions" in name:
                noise = 0.3 * noise
            else:
                # Queries and keys are larger, or attention would be nearly even and positions would not show.
                gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                noise = gain / math.sqrt(parameter.shape[1]) * noise
            parameter.copy_(noise.to(dtype).float())


def save_logits(folder, model, seed, n_vocab, n=N_TOKENS):
    tokens = torch.randint(4, n_vocab, (1, n), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    write_json(folder / "prompt.json", {"tokens": tokens[0].tolist()})
    logits.float().numpy().astype("<f4").tofile(folder / "logits.f32")
    print(f"{folder.name}: logits from {logits.min():.3f} to {logits.max():.3f}")


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def clean(folder):
    """transformers has no place for a version in a comparison of files."""
    for path in folder.iterdir():
        path.chmod(0o644)
    for path in folder.glob("*config.json"):
        config = json.loads(path.read_text())
        config.pop("transformers_version", None)
        write_json(path, config)


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
