"""A small tokenizer folder for the other generators, which refuse to start without one; made here, from nothing.

Belongs here: a byte-level BPE trained on the packaged word list, the same bytes every time, in which a word and
the space after it are one token (so that each word the ground-truth server says is one token to a peer that
counts by itself), and the files `transformers` wants beside it.
Does not belong here: installing (``venvs``). This file is also run as a script by a peer's own Python, since
the project itself has no `tokenizers`: it imports nothing of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

VOCABULARY = 4096
TRAIN_LIMIT_S = 120.0
_ROOT = Path(__file__).parents[3]


def ensure_tokenizer(folder: Path, python: Path) -> Path:
    """The tokenizer below *folder*, made by the peer interpreter *python* if it is not there.

    Raises ``RuntimeError`` with the script's last line when it cannot be made.
    """
    target = folder / "tokenizer"
    if not (target / "tokenizer_config.json").exists():
        command = [str(python), "-I", str(Path(__file__)), str(_ROOT / "loadgen" / "words.txt"), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRAIN_LIMIT_S)
        if done.returncode != 0:
            raise RuntimeError(f"tokenizer: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return target


def build(words_file: Path, target: Path) -> None:
    """Train on the words, each alone and with a space after it, and write a Hugging Face folder."""
    from tokenizers import (  # type: ignore[import-not-found,unused-ignore]
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )

    words = words_file.read_text(encoding="ascii").split()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for word in words for text in (word, word + " ")], trainer)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "model_max_length": 1_000_000,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    # Some clients ask for the model's own configuration first.
    (target / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 64}),
        encoding="utf-8",
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
