"""Benchmarks run outside of ``make test``; what they need must be there all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_benchmark_can_be_set_up() -> None:
    """All of them are collected and find their fixtures; nothing of them runs."""
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "--setup-plan",
        "-n0",
        "-m",
        "long or not long",
        "tests/benchmarks",
    ]
    done = subprocess.run(pytest, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
