"""AT-7 arrival processes, AT-18 cache shares, AT-24 the same schedule on every Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from loadgen import workloads
from loadgen.schedule import NS, arrivals
from tests.loadgen.conftest import ROOT, Result, Truth, make_plan, run, truth
from tests.loadgen.workload_data import mooncake, mooncake_rows

__all__ = ["run", "truth"]

# ---- AT-7: 10,000 arrivals of each law


def law(name: str, rate: float = 100.0) -> np.ndarray[Any, Any]:
    return np.array(arrivals(name, rate, 10_000 / rate, seed=11), dtype=np.int64)


def gap_cv(due: np.ndarray[Any, Any]) -> float:
    gaps = np.diff(due)
    return float(gaps.std() / gaps.mean())


def test_at7_poisson() -> None:
    due = law("poisson")
    assert stats.kstest(np.diff(due) / NS, "expon", args=(0, 1 / 100)).pvalue > 0.01
    assert gap_cv(due) == pytest.approx(1, abs=0.03)
    counts = np.histogram(due, bins=1000, range=(0, 100 * NS))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.1)
    assert abs(len(due) - 10_000) < 4 * 100  # never rescaled to the wished count
    assert len(due) != 10_000


def test_at7_gamma() -> None:
    due = law("gamma:0.25")
    assert gap_cv(due) == pytest.approx(2, abs=0.1)
    assert abs(len(due) - 10_000) < 4 * 200
    assert stats.kstest(np.diff(due) / NS, stats.gamma(0.25, scale=4 / 100).cdf).pvalue > 0.01


def test_at7_constant() -> None:
    due = law("constant")
    assert len(due) == 10_000
    assert gap_cv(due) < 0.01


@pytest.mark.parametrize("name", ["poisson", "gamma:0.25", "gamma:4", "steps:0.5x40,1.5x40"])
def test_at7_no_mass_on_whole_seconds(name: str) -> None:
    """A timer that pins arrivals to whole seconds puts 1/rate of them there; chance puts 0.2 % within 1 ms."""
    due = law(name)
    assert np.mean((due + 1_000_000) % NS < 2_000_000) < 0.006
    assert np.all(np.diff(due) >= 0)


# ---- AT-18: a server with a real prefix trie reports cached tokens


def chi(result: Result) -> float:
    rows = result.measured()
    assert result.code == 0, result.error
    assert len(rows) > 20
    cached = [row["cached_input_tokens"] for row in rows]
    assert None not in cached
    return float(sum(cached) / sum(row["input_tokens"] for row in rows))


def short(name: str, rate: float, **changes: Any) -> workloads.Workload:
    """A packaged profile with windows that fit into a test; its lengths, text and prefixes stay."""
    document = {**workloads.load(name).document, "id": f"short.{name}", "evidence_level": "demo"}
    document |= {"ladder": [rate], "osl": {"law": "const", "tokens": 2}, "stop": {"ignore_eos": True}}
    document["times_s"] = {"warmup": 1, "window": 3, "tail": 5, "request_timeout": 20, "idle_timeout": 10}
    return workloads.from_document({**document, "warmup_rule": "time", "slo": None, **changes})


def measure(
    workload: workloads.Workload, truth: Callable[..., Truth], run: Callable[..., Result], **changes: Any
) -> float:
    url = truth("--prefix-cache", "4000000:16", "--ttft-ms", "5", "--gap-ms", "1").url
    return chi(run(make_plan(url, workload, **changes)))


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize("name", ["vllm.random@1", slow("long.32k@1"), slow("json.schema@1")])
def test_at18_cold(name: str, truth: Callable[..., Truth], run: Callable[..., Result]) -> None:
    workload = short(name, 2 if name == "long.32k@1" else 8, loop="closed", arrival="none")
    assert workload.cache_share == 0.0
    assert measure(workload, truth, run) <= 0.01


@pytest.mark.parametrize(("name", "rate"), [("shared.sys2k@1", 40.0), slow("rag.6k@1", 20.0)])
def test_at18_shared(name: str, rate: float, truth: Callable[..., Truth], run: Callable[..., Result]) -> None:
    workload = short(name, rate)
    assert workload.cache_share is not None
    assert measure(workload, truth, run) == pytest.approx(workload.cache_share, abs=0.05)


def test_at18_trace_of_block_hashes(
    truth: Callable[..., Truth], run: Callable[..., Result], tmp_path: Path
) -> None:
    """The share an infinite cache would reach on the hashes of the rows in the window, within 5 points."""
    path = mooncake(tmp_path / "m.jsonl", count=100, blocks=12)
    workload = short(
        "mooncake.conv@1",
        20.0,
        isl={"law": "empirical", "cap": 131072},
        times_s={"warmup": 0, "window": 4.5, "tail": 5, "request_timeout": 20, "idle_timeout": 10},
    )
    seen: set[int] = set()
    hit = total = 0
    for row in mooncake_rows(100, 12)[:90]:
        hashes, length = row["hash_ids"], row["input_length"]
        assert isinstance(hashes, list)
        assert isinstance(length, int)
        known = [h in seen for h in hashes[: length // 512]]
        hit += 512 * (known.index(False) if False in known else len(known))
        total += length
        seen |= set(hashes[: length // 512])
    assert hit / total > 0.1
    assert measure(workload, truth, run, dataset=str(path)) == pytest.approx(hit / total, abs=0.05)


# ---- AT-24: same root seed, two hosts

PROFILES = (
    "fixed.1k1k@1",
    "ix.1k1k-r80@1",
    "burst.gamma025@1",
    "shared.sys2k@1",
    "rag.6k@1",
    "multiturn.chat@1",
    "agent.tools@1",
    "reason.natural@1",
    "json.schema@1",
    "spec.natural@1",
)
# A change means that recorded runs can no longer be repeated.
GOLDEN = "8c06f0104e8b789b4d78bfc25dc7e530365c51e7e90c486fa77a8c7c89e64c68"
_SCRIPT = """
import hashlib, json, sys
from loadgen import workloads
from loadgen.plan import Plan, Replica
from loadgen.sizing import Sizing
from loadgen.source import StepSource, hashes

class Found:
    sizing, expected_life_ms = Sizing(1.05, 1.35, 20.0), None

documents = json.load(sys.stdin)
steps = {"steps:0.5x5,2x5,1x5": 30.0, "constant": 12.0, "at_once": 20.0}
for law, rate in steps.items():
    documents.append(workloads.custom(rate=rate, arrival=law, duration_s=15.0).document)
digest = hashlib.sha256()
for document in documents:
    workload = workloads.from_document(document)
    plan = Plan("run", "m", (Replica("a", "http://a"),), workload.steps()[:2], document, workload.id, workload.hash,
                20261122, 60, 30, 100)
    sources = [StepSource(plan, workload, step, Found()) for step in plan.steps]
    for text in hashes(sources):
        digest.update(text.encode())
    digest.update(sources[0].request(3).body)
print(sys.version_info[:2], digest.hexdigest())
print(sorted(name for name in ("numpy", "yaml", "orjson", "h2", "pyarrow") if name in sys.modules))
"""


def interpreters() -> list[str]:
    """This Python and others on the machine, of different minor versions."""
    found = {sys.version_info[:2]: sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in (11, 12, 13):
        places = [shutil.which(f"python3.{minor}"), *sorted(map(str, pyenv.glob(f"3.{minor}.*/bin/python")))]
        for path in filter(None, places):
            probe = subprocess.run([path, "-c", "pass"], capture_output=True, timeout=120)
            if probe.returncode == 0:
                found.setdefault((3, minor), path)
                break
    return list(found.values())


def hashed(python: str, hash_seed: str) -> str:
    """The digest as that Python finds it, without its installed packages."""
    documents = json.dumps([workloads.load(name).document for name in PROFILES])
    done = subprocess.run(
        [python, "-S", "-B", "-c", _SCRIPT],
        input=documents,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    first, modules = done.stdout.splitlines()
    assert modules == "[]"
    return first.rpartition(" ")[2]


def test_at24_golden_hash_on_this_python() -> None:
    assert hashed(sys.executable, "1") == GOLDEN


def test_at24_other_pythons_and_hash_seeds_agree() -> None:
    """On this Python with another seed at least, and on each other one that the machine has."""
    assert {hashed(python, str(2 + k)) for k, python in enumerate(interpreters())} == {GOLDEN}
