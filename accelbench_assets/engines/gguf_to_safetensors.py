"""Converts a GGUF model to Hugging Face safetensors in bfloat16, with its tokenizer and chat template.

Belongs here: a program for an interpreter that has torch, transformers, gguf and accelerate; it imports
nothing of ours: ``python gguf_to_safetensors.py MODEL.gguf TARGET_FOLDER``. Does not belong here: when it
runs (``vllm_env``). The target appears complete or not at all.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path


def convert(source: Path, target: Path) -> None:
    """Write *target* from *source*; raises whatever transformers raises."""
    # Not importable where this file is type-checked: they live in the engine's own environment.
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")

    folder, name = str(source.parent), source.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        dtype=torch.bfloat16,
        # Without this, save_pretrained refuses to write the GGUF's quantised tensors.
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.save_pretrained(str(unfinished))
    tokenizer.save_pretrained(str(unfinished))
    target.mkdir(parents=True, exist_ok=True)
    # Last config.json, which marks it complete.
    for path in sorted(unfinished.iterdir(), key=lambda p: p.name == "config.json"):
        path.replace(target / path.name)
    unfinished.rmdir()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
