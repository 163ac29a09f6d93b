#!/usr/bin/env python3
"""Makes tests/data/convert: tiny seeded checkpoints as Hugging Face transformers saves them, with the logits it gives.

    make_convert_golden.py opt [FOLDER]                 the OPT variants
    make_convert_golden.py llama LLAMA_CPP [FOLDER]     the Llama variants, and what llama.cpp's converter makes of them

Needs the Python packages torch, transformers, tokenizers, sentencepiece, protobuf, safetensors and gguf; LLAMA_CPP is a
source tree of llama.cpp that has `convert_hf_to_gguf.py` and `conversion/`.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM

HERE = Path(__file__).resolve().parent
DEFAULT = HERE / "data/convert"
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
    if len(sys.argv) < 2 or sys.argv[1] not in ("opt", "llama"):
        sys.exit(__doc__)
    if sys.argv[1] == "opt":
        make_opt(Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT)


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


def fill(model, seed):
    """Weights that f16 can hold, so that a checkpoint in f16 and these logits in f32 are of one model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                noise = 1.0 + 0.2 * noise
            elif parameter.dim() == 1:
                noise = 0.2 * noise
            elif "embed_positions" in name:
                noise = 0.3 * noise
            else:
                # Queries and keys are larger, or attention would be nearly even and positions would not show.
                gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                noise = gain / math.sqrt(parameter.shape[1]) * noise
            parameter.copy_(noise.half().float())


def save_logits(folder, model, seed, n_vocab):
    tokens = torch.randint(4, n_vocab, (1, N_TOKENS), generator=torch.Generator().manual_seed(seed))
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
