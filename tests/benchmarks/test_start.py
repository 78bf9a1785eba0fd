"""How long a newcomer waits: the command line's start, beside the interpreter's own."""

import statistics
import subprocess
import sys
import time

import pytest


def seconds(*words: str) -> float:
    took = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=60)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@pytest.mark.long
def test_help_answers_at_once() -> None:
    bare, shown = seconds("-c", "pass"), seconds("-m", "accelbench_assets.cli", "--help")
    print(f"\naccelbench --help: {shown:.2f} s; python -c pass: {bare:.2f} s; ratio {shown / bare:.1f}")
    assert shown < 0.4
