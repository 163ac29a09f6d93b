"""What the makers of golden models have in common: seeded weights, the prompt, and the files with the logits."""

import json
import math
import sys
from pathlib import Path

import torch

from shared import DATA, write_out


def make_all(folder_name, variants, n_vocab, n_tokens, make_model, check, write_gguf):
    """Writes each variant's model, prompt and logits into the folder that the command line names, else tests/data/FOLDER_NAME."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / folder_name
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, options) in enumerate(variants.items(), start=1):
        model = make_model(options)
        fill(model, seed)
        tokens = torch.randint(3, n_vocab, (1, n_tokens), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            logits = model(tokens).logits[0]
        check(name, model, tokens, logits)
        write_gguf(folder / f"{name}.gguf", name, model)
        (folder / f"{name}.json").write_text(json.dumps({"tokens": tokens[0].tolist()}) + "\n")
        logits.numpy().astype("<f4").tofile(folder / f"{name}.logits.f32")
        print(f"{name}: logits from {logits.min():.3f} to {logits.max():.3f}")


def fill(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise)
            else:
                # Queries and keys are larger, or attention would be nearly even and positions would not show.
                gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                parameter.copy_(gain / math.sqrt(parameter.shape[1]) * noise)


def finish(writer, tensors):
    """Writes the file of a writer that has its metadata."""
    for name, data in tensors:
        writer.add_tensor(name, data)
    write_out(writer)
