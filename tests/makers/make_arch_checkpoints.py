#!/usr/bin/env python3
"""Makes tests/data/arch: a tiny seeded checkpoint of each architecture as Hugging Face transformers saves it, the logits that
transformers gives for it, what llama.cpp's converter makes of it, and the greedy text of llama.cpp on that file.

    make_arch_checkpoints.py LLAMA_CPP GREEDY [NAME ...]

Needs the Python packages torch, transformers, tokenizers, sentencepiece, protobuf, safetensors and gguf; LLAMA_CPP is a source
tree of llama.cpp that has `convert_hf_to_gguf.py` and `conversion/`, GREEDY the program that make_greedy_golden.py builds.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from make_tokenizer_golden import LLAMA3
from make_convert_golden import clean, fnv, fresh, value, write_json
from shared import DATA

N_CONTEXT = 64
N_PROMPT = 24
N_GREEDY = 16
N_PROMPTS = 16
# Nearer than this to another token, rounding may choose.
CLEAR = 0.08

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, **UNTIED}


def rope(**settings):
    return {"rope_parameters": {**DEFAULT_ROPE, **settings}}


# The class of transformers by the beginning of its name, the rules of the tokenizer, and what is not as in SHAPE. What
# published configurations say and transformers no longer writes stands under `config.json`.
ARCHITECTURES = {
    # A window in every layer, shorter than the prompt.
    "mistral": ("Mistral", "llama-bpe", {"head_dim": 8, "sliding_window": 8, **UNTIED, **rope()}),
    # Queries, keys and values in one matrix, gate and up in another.
    "phi4": ("Phi3", "gpt-4o", {"sliding_window": None, "original_max_position_embeddings": N_CONTEXT, "tie_word_embeddings": True,
                                **rope(original_max_position_embeddings=N_CONTEXT)}),
    # Factors for short and for long texts; three quarters of a head rotate; a window.
    "phi4-longrope": ("Phi3", "gpt-4o", {"sliding_window": 8, "original_max_position_embeddings": 32, **UNTIED, **rope(
        rope_type="longrope", partial_rotary_factor=0.75, original_max_position_embeddings=32,
        short_factor=[1.0, 1.25, 1.5], long_factor=[2.0, 3.0, 4.5])}),
    # Positions of their own, matrices the other way round.
    "gpt2": ("GPT2", "gpt-2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": N_CONTEXT}),
    # Halves side by side, with a norm each; a quarter of a head rotates.
    "gptneox": ("GPTNeoX", "olmo", {"rotary_pct": 0.25, "hidden_act": "gelu", **UNTIED, **rope(partial_rotary_factor=0.25)}),
    # The same, one after the other.
    "gptneox-in-turn": ("GPTNeoX", "olmo", {"rotary_pct": 0.5, "hidden_act": "gelu", "use_parallel_residual": False, **UNTIED,
                                            **rope(partial_rotary_factor=0.5)}),
    # Halves side by side, with one norm; biases everywhere, at the head too.
    "phi2": ("Phi", "gpt-2", {"num_key_value_heads": 4, "intermediate_size": 128, **UNTIED, **rope(partial_rotary_factor=0.5)}),
    "stablelm": ("StableLm", "deepseek-r1-qwen", {"use_qkv_bias": True, **UNTIED, **rope(partial_rotary_factor=0.25)}),
    # A norm for each head; halves side by side.
    "stablelm-heads": ("StableLm", "deepseek-r1-qwen", {
        "use_parallel_residual": True, "qk_layernorm": True, **UNTIED, **rope(partial_rotary_factor=0.5)}),
    # Norms before and behind each half; half of a head rotates.
    "glm4": ("Glm4", "smaug-bpe", {"head_dim": 16, "attention_bias": True, **UNTIED, **rope(partial_rotary_factor=0.5)}),
    "command-r": ("Cohere", "command-r", {"logit_scale": 2.0, "model_max_length": N_CONTEXT, **TIED, **rope()}),
    # Layers that see everything do not rotate.
    "cohere2": ("Cohere2", "command-r", {"logit_scale": 2.0, "num_hidden_layers": 4, "intermediate_size": 32, "sliding_window": 8,
                                         "head_dim": 8, "rotary_pct": 1.0, **TIED, **rope(rope_theta=50000.0)}),
    # As InternLM 2 is published: a Llama whose queries, keys and values lie in one matrix by groups.
    "internlm2": ("Llama", "spm", {"head_dim": 8, "rms_norm_eps": 1e-5, **UNTIED, **rope()}),
    # One head of keys for all.
    "falcon": ("Falcon", "falcon", {"multi_query": True, "new_decoder_architecture": False, **TIED, **rope()}),
    # Groups of heads, a norm for each half.
    "falcon-groups": ("Falcon", "falcon", {"num_kv_heads": 2, "new_decoder_architecture": True, **TIED, **rope()}),
    "mixtral": ("Mixtral", "llama-bpe", {**EXPERTS, "sliding_window": None, **rope()}),
    "qwen3moe": ("Qwen3Moe", "qwen2", {**EXPERTS, "head_dim": 16, "intermediate_size": 64, "moe_intermediate_size": 32,
                                       "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], **rope()}),
    "granitemoe": ("GraniteMoe", "smollm", {**EXPERTS, "embedding_multiplier": 12.0, "logits_scaling": 0.5, "residual_multiplier": 0.5,
                                            "attention_multiplier": 0.25, **rope()}),
    # Sinks, every other layer with a window, biases everywhere.
    "gpt-oss": ("GptOss", "gpt-4o", {**EXPERTS, "head_dim": 16, "sliding_window": 8, "num_experts_per_tok": 2, **rope(
        rope_type="yarn", rope_theta=150000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0)}),
}


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    (llama_cpp, greedy), names = map(Path, sys.argv[1:3]), sys.argv[3:]
    for seed, (name, (family, rules, options)) in enumerate(ARCHITECTURES.items(), start=71):
        if not names or name in names:
            make(DATA / "arch" / name, family, rules, options, seed, llama_cpp, greedy)


def make(path, family, rules, options, seed, llama_cpp, greedy):
    folder = fresh(path)
    tokenizer, roles, control = save_tokenizer(folder, rules)
    n_tokens = tokenizer.get_vocab_size()
    config_class, model_class = (getattr(transformers, family + end) for end in ("Config", MODEL_CLASSES.get(family, "ForCausalLM")))
    config = config_class(**{
        **SHAPE, "vocab_size": n_tokens + (rules != "spm"), "max_position_embeddings": N_CONTEXT, "attn_implementation": "eager", **roles, **options})
    model = model_class(config).eval()
    fill(model, seed)
    # Longer than the context of the factors for short texts.
    tokens, text = prompt(model, n_tokens, 40 if path.name == "phi4-longrope" else N_PROMPT)
    with torch.no_grad():
        logits = model(tokens).logits[0]
    print(f"{path.name}: logits from {logits.min():.3f} to {logits.max():.3f}")
    logits.float().numpy().astype("<f4").tofile(folder / "logits.f32")
    if path.name == "phi4-longrope":
        with torch.no_grad():
            short = model(tokens[:, :N_PROMPT]).logits[0]
        short.float().numpy().astype("<f4").tofile(folder / "logits-short.f32")
    model = model.to(torch.bfloat16)
    model.generation_config.update(eos_token_id=roles["eos_token_id"])
    model.save_pretrained(folder)
    publish(folder, path.name, options)
    clean(folder)
    expected = converted(llama_cpp, folder, rules, tokens, greedy)
    expected |= {"prompt": tokens[0].tolist(), "text": text, "ids": ids(tokenizer)}
    same = sum(1 for a, b in zip(text, expected.pop("greedy")) if a == b)
    print(f"{path.name}: llama.cpp gives {same} of {len(text)} clear tokens")
    write_json(folder / "expected.json", expected)


MODEL_CLASSES = {"GPT2": "LMHeadModel"}


def prompt(model, n_tokens, n_prompt):
    """A prompt with a long text behind it that no rounding changes."""
    best = (None, [])
    for seed in range(N_PROMPTS):
        tokens = torch.randint(4, n_tokens, (1, n_prompt), generator=torch.Generator().manual_seed(seed))
        text = clear_text(model, tokens)
        if len(text) > len(best[1]) or seed == 0:
            best = (tokens, text)
    return best


def clear_text(model, tokens):
    """Greedy tokens up to the first that another token comes near to, or that ends a text."""
    text, all_tokens = [], tokens
    while len(text) < N_GREEDY:
        with torch.no_grad():
            best = model(all_tokens).logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < CLEAR or best.indices[0] < 4:
            break
        text.append(best.indices[0].item())
        all_tokens = torch.cat([all_tokens, best.indices[:1].unsqueeze(0)], dim=1)
    return text


def fill(model, seed):
    """Weights that bf16 holds, so that a checkpoint in it and logits in f32 are of one model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if ("norm" in name or ".ln_" in name) and name.endswith("weight"):
                noise = 1.0 + 0.2 * noise
            elif parameter.dim() == 1 or name.endswith("_bias"):
                noise = 0.2 * noise
            else:
                # Queries and keys are larger, or attention would be nearly even and positions would not show.
                is_query = any(part in name for part in ("q_proj", "k_proj", "qkv", "query_key", "c_attn"))
                noise = (2.0 if is_query else 1.0) / math.sqrt(parameter.shape[-1]) * noise
            parameter.copy_(noise.to(torch.bfloat16).float())


def save_tokenizer(folder, rules):
    if rules == "spm":
        return save_sentencepiece(folder)
    import make_tokenizer_golden as golden

    pre, whole_words, nfc = PRE[rules] if rules in PRE else golden.PRE[rules]
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    control = ["<|endoftext|>", "<|user|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=control, show_progress=False)
    tokenizer.train_from_iterator([t for t in golden.CORPUS if len(t) < 200 and t not in golden.SPECIAL], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": control[0], "eos_token": control[0]})
    return tokenizer, {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}, control


PRE = {
    "falcon": (
        pre_tokenizers.Sequence([
            pre_tokenizers.Punctuation(behavior="contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated"),
        ]), False, False),
    "olmo": (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), False, True),
    "smaug-bpe": (
        pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]), False, False),
}


class SentencePiece:
    """What a test asks of a tokenizer."""

    def __init__(self, proto):
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def get_vocab_size(self):
        return self.processor.vocab_size()

    def encode(self, text, add_special_tokens):
        return type("Encoding", (), {"ids": self.processor.encode(text)})


def save_sentencepiece(folder):
    import make_tokenizer_golden as golden

    proto = golden.train_spm("llama", byte_fallback=True, add_dummy_prefix=True)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "InternLM2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True})
    return SentencePiece(proto), {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}, []


def ids(tokenizer):
    """A hash of the ids of each text of the corpus. SentencePiece has no notion of special tokens in texts."""
    import make_tokenizer_golden as golden

    texts = golden.CORPUS if isinstance(tokenizer, Tokenizer) else golden.PROSE + golden.CODE + golden.WORLD + golden.LONG
    of = lambda text: fnv(json.dumps(tokenizer.encode(text, add_special_tokens=False).ids, separators=(",", ":")).encode())
    return [of(text) for text in texts]


def publish(folder, name, options):
    """Names and keys as published checkpoints have them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {key: options[key] for key in ("rotary_pct", "model_max_length") if key in options}
    if name == "falcon":
        config["num_kv_heads"] = 1
    if name == "gpt2":
        config["n_ctx"] = N_CONTEXT
    if name == "internlm2":
        config |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False}
        rename_internlm2(folder / "model.safetensors", config)
    write_json(path, config)


def rename_internlm2(path, config):
    from safetensors.torch import load_file, save_file

    names = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
             "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "model.embed_tokens": "model.tok_embeddings", "lm_head": "output"}
    state, renamed = load_file(path), {}
    n_group = config["num_key_value_heads"]
    for il in range(config["num_hidden_layers"]):
        layer = f"model.layers.{il}.self_attn"
        parts = [state.pop(f"{layer}.{part}_proj.weight") for part in "qkv"]
        parts = [part.reshape(n_group, -1, config["head_dim"], config["hidden_size"]) for part in parts]
        renamed[f"model.layers.{il}.attention.wqkv.weight"] = torch.cat(parts, dim=1).reshape(-1, config["hidden_size"]).contiguous()
    for name, data in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = data
    save_file(renamed, path, metadata={"format": "pt"})


LOAD_HPARAMS = None


def load_hparams(dir_model, is_mistral_format):
    return {**json.loads((dir_model / "config.json").read_text()), **LOAD_HPARAMS(dir_model, is_mistral_format)}


def converted(llama_cpp, folder, rules, tokens, greedy):
    """What llama.cpp's converter writes: a hash of the file of each type, what is in that of f32, and the text of that."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import convert_hf_to_gguf
    import gguf
    from conversion.base import ModelBase, TextModel
    from conversion.phi import Phi3MiniModel

    global LOAD_HPARAMS
    LOAD_HPARAMS = LOAD_HPARAMS or ModelBase.load_hparams
    # It knows tokenizers by hashes of what they make of a text; ours is in no list.
    TextModel.get_vocab_base_pre = lambda self, tokenizer: rules
    # It tells Phi 4's tokenizer from Phi 3's by a class that would make another one of ours.
    Phi3MiniModel.set_vocab = TextModel._set_vocab_gpt2
    # Keys that published configurations have and transformers no longer reads.
    ModelBase.load_hparams = staticmethod(load_hparams)
    result = {"fnv": {}}
    for outtype in ("f32", "f16", "bf16", "q8_0"):
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "out.gguf"
            sys.argv = ["convert", str(folder), "--outfile", str(path), "--outtype", outtype]
            try:
                convert_hf_to_gguf.main()
            except ValueError as error:
                # Its code for norms by head returns from a generator.
                print(f"{folder.name}: llama.cpp: {str(error)[:60]}")
                return {"greedy": []}
            result["fnv"][outtype] = fnv(path.read_bytes())
            if outtype == "f32":
                reader = gguf.GGUFReader(path)
                result["keys"] = {key: value(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
                result["tensors"] = [
                    [t.name, t.tensor_type.name.lower(), [int(d) for d in t.shape], fnv(t.data.tobytes())] for t in reader.tensors]
                prompt = " ".join(str(token) for token in tokens[0].tolist()) + "\n"
                output = subprocess.run([greedy, path, str(N_GREEDY), "1"], input=prompt, stdout=subprocess.PIPE, text=True, check=True).stdout
                result["greedy"] = [int(token) for token in output.split()]
    return result


if __name__ == "__main__":
    main()
