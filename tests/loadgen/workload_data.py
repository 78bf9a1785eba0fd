"""Small made files in the formats of the user's data, for the tests of datasets, traces and the catalogue."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from pathlib import Path


def sharegpt(path: Path, count: int = 50) -> Path:
    """Conversations of two questions; row i's first question names i."""
    rows = [
        {
            "id": f"row-{i}",
            "conversations": [
                {"from": "human", "value": f"Question {i}: how many apples? " + "More apples. " * (i % 30)},
                {"from": "gpt", "value": "None."},
                {"from": "human", "value": f"Why {i}?"},
                {"from": "gpt", "value": "So."},
            ],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def azure(path: Path, count: int = 400, rate: float = 5.5) -> Path:
    """Poisson arrivals with seven decimals, as the published files have."""
    draw, at, lines = random.Random(1), 0.0, ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for _ in range(count):
        at += draw.expovariate(rate)
        when = datetime(2023, 11, 16, 18, 15, 46) + timedelta(seconds=at)
        lines.append(f"{when:%Y-%m-%d %H:%M:%S.%f}3,{draw.randint(20, 4000)},{draw.randint(5, 600)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def mooncake_rows(count: int = 300, blocks: int = 20) -> list[dict[str, object]]:
    """Batches every 3 s; requests share none, 3 or 10 leading blocks."""
    draw, rows = random.Random(2), []
    for i in range(count):
        length = draw.randint(600, 512 * blocks)
        n = -(-length // 512)
        shared = min(draw.choice([0, 3, 10]), n)
        hashes = [*range(shared), *(1000 + 100 * i + k for k in range(n - shared))]
        rows.append(
            {
                "timestamp": i // 10 * 3000,
                "input_length": length,
                "output_length": draw.randint(1, 900),
                "hash_ids": hashes,
            }
        )
    return rows


def mooncake(path: Path, count: int = 300, blocks: int = 20) -> Path:
    """``mooncake_rows`` as a file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in mooncake_rows(count, blocks)))
    return path


def burstgpt(path: Path, count: int = 100) -> Path:
    """Every tenth request failed there: no response tokens."""
    lines = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"]
    for i in range(count):
        out = 0 if i % 10 == 9 else 100 + i
        lines.append(f"{5 + 2.5 * i},ChatGPT,{400 + i},{out},{400 + i + out},Conversation log")
    path.write_text("\n".join(lines) + "\n")
    return path
