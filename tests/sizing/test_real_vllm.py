"""Blocks, bytes per token and capacity as the real vLLM counts them, for several limits and three kinds of models.

The pool's bytes are given to vLLM, so nothing depends on the machine. A pool of exactly n blocks must give n, and one
byte less n - 1: that fixes the bytes of a block, and so of a token, to the byte.
"""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from accelbench_assets.engines.vllm import Vllm
from accelbench_assets.engines.weights import DEMO_MODEL
from accelbench_assets.launch.ports import choose_ports
from accelbench_assets.launch.supervise import prctl
from accelbench_assets.sizing import kv
from accelbench_assets.sizing.engine_memory import Pool, pool_of
from partitions.catalog import load_models
from partitions.rows import GIB, ModelRow
from tests.sizing.random_models import Shape, gemma, llama
from tests.support.optional import MODELS, VLLM_PYTHON, needs_vllm_and_model

MODEL = MODELS / DEMO_MODEL
START_LIMIT_S = 300.0
CPU_BLOCK = 128

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("local-engine"), needs_vllm_and_model]


class Told:
    """What a server said of its KV cache: labels of ``vllm:cache_config_info`` and its log."""

    def __init__(self, metrics: str, log: str) -> None:
        line = re.search(r"^vllm:cache_config_info\{(.*)\}", metrics, re.M)
        assert line is not None, "no vllm:cache_config_info"
        self.labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line[1]))
        found = re.search(
            r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x",
            log,
        )
        assert found is not None, log[-2000:]
        self.tokens, self.max_model_len = (int(found[n].replace(",", "")) for n in (1, 2))
        self.concurrency = found[3]

    @property
    def blocks(self) -> int:
        return int(self.labels["num_gpu_blocks"])


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


@contextlib.contextmanager
def serving(model: Path, folder: Path, *flags: str, gib: str | None = None) -> Iterator[Told]:
    """The real server with *flags*; ended with all its children. *gib*: the pool as AccelBench's own engine sets it."""
    (port,) = choose_ports(None, 1)
    sockets = tempfile.TemporaryDirectory()
    env = {**os.environ, **Vllm().env(None, folder), str(Vllm.scratch_variable): sockets.name}  # type: ignore[arg-type]
    env.pop("VLLM_CPU_KVCACHE_SPACE")
    if gib is not None:
        env["VLLM_CPU_KVCACHE_SPACE"] = gib
    log = folder / f"vllm-{port}.log"
    command = [str(VLLM_PYTHON), "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "bfloat16", *flags]
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: prctl(1, signal.SIGTERM),  # it ends with this process
        )
    try:
        end = time.monotonic() + START_LIMIT_S
        while (
            metrics := _get(f"http://127.0.0.1:{port}/metrics")
        ) is None or "cache_config_info" not in metrics:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        yield Told(metrics, log.read_text())
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        sockets.cleanup()


def row(shape: Shape, *, full: int | None = None, window: int | None = None) -> ModelRow:
    return replace(
        load_models()[DEMO_MODEL],
        layers=shape.layers,
        hidden_size=shape.hidden,
        attention_heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        full_attention_layers=full,
        sliding_window=window,
        max_position_embeddings=8192,
    )


def agrees(told: Told, held: Pool) -> None:
    assert int(told.labels["block_size"]) == held.block_tokens
    assert told.blocks == held.blocks
    assert told.max_model_len == held.max_model_len
    assert told.tokens == held.tokens
    assert told.concurrency == f"{held.max_concurrency:.2f}"
    if "kv_cache_size_tokens" in told.labels:
        assert int(told.labels["kv_cache_size_tokens"]) == held.tokens


def check(
    model: Path, facts: ModelRow, folder: Path, *, length: int, seqs: int, spare: int, blocks: int, block: int
) -> None:
    """A pool of *blocks* blocks and *spare* bytes (negative: short of the last one) under these limits."""
    pool_bytes = blocks * kv.block_bytes(facts, block_tokens=block) + spare
    batched = 512
    flags = ["--max-model-len", str(length), "--max-num-seqs", str(seqs), "--block-size", str(block)]
    flags += ["--max-num-batched-tokens", str(batched), "--kv-cache-memory-bytes", str(pool_bytes)]
    held = pool_of(facts, pool_bytes, max_model_len=length, in_flight=batched, block_tokens=block)
    assert held.blocks == blocks - (spare < 0)
    with serving(model, folder, *flags) as told:
        agrees(told, held)


def test_smollm2_as_accelbench_serves_it(tmp_path: Path) -> None:
    """1 GiB, blocks of 128 as the processor's build chooses: 30 layers x 2 x 3 heads x 64 x 2 B = 23,040 B a token."""
    facts = load_models()[DEMO_MODEL]
    assert kv.bytes_per_token(facts) == 23040
    held = pool_of(facts, GIB, max_model_len=512, block_tokens=CPU_BLOCK)
    with serving(MODEL, tmp_path, "--max-model-len", "512", "--max-num-seqs", "4", gib="1") as told:
        agrees(told, held)


@pytest.mark.parametrize(
    ("length", "seqs", "spare", "block"),
    [(2048, 16, 0, 32), (1000, 64, -1, 128)],
    ids=["exact", "a byte short"],
)
def test_smollm2_to_the_byte(tmp_path: Path, length: int, seqs: int, spare: int, block: int) -> None:
    facts = load_models()[DEMO_MODEL]
    check(MODEL, facts, tmp_path, length=length, seqs=seqs, spare=spare, blocks=257, block=block)


@pytest.mark.parametrize(
    ("length", "seqs", "spare", "block"),
    [(4096, 8, 0, 128), (777, 128, -1, 32)],
    ids=["exact", "a byte short"],
)
def test_a_random_llama_to_the_byte(tmp_path: Path, length: int, seqs: int, spare: int, block: int) -> None:
    shape = Shape(layers=5, heads=8, kv_heads=2, head_dim=32)
    model = llama(tmp_path / "llama", MODEL, shape)
    check(model, row(shape), tmp_path, length=length, seqs=seqs, spare=spare, blocks=300, block=block)


@pytest.mark.parametrize(
    ("layers", "every", "full"), [(8, 4, 2), (7, 2, 3)], ids=["two full, six windows", "three padded to four"]
)
def test_windows_and_full_attention_share_blocks(tmp_path: Path, layers: int, every: int, full: int) -> None:
    """Groups of equally many layers: 2 + 6 are four groups of two; 3 + 4 are two groups, both of four."""
    shape = Shape(layers=layers, heads=4, kv_heads=2, head_dim=64)
    model = gemma(tmp_path / "gemma", MODEL, shape, every=every, window=256)
    facts = row(shape, full=full, window=256)
    check(model, facts, tmp_path, length=4096, seqs=8, spare=0, blocks=400, block=32)
