"""The other projects' load generators: their command lines for our loads, and the figures in their result files.

Belongs here: guidellm, aiperf, inference-perf and `vllm bench serve`, each as its own documentation has it run.
Only what the tables need is read from their JSON.
Does not belong here: installing them (``venvs``), judging them (``arithmetic``).

`percentiles` name what each calls them: "gap" is between chunks (guidellm has only a mean per request), "tpot" the
mean per request under whatever name. All in ms.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.loadgen_peers.arithmetic import Outcome
from tests.benchmarks.loadgen_peers.clients import Client, Load

OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
_WORKERS = 2


class _Peer:
    name = ""
    processes = True

    def __init__(self, venv: Path, tokenizer: Path) -> None:
        self.bin, self.tokenizer = venv / "bin", str(tokenizer)

    def environment(self) -> dict[str, str]:
        """No network, no telemetry."""
        return dict(OFFLINE)


class GuideLlm(_Peer):
    """guidellm."""

    name = "guidellm"

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """Its read timeout is none by default, so it is given one."""
        if load.concurrency is not None:
            profile = f"kind=concurrent,streams={load.concurrency}"
        else:
            profile = f"kind={load.arrival},rate={load.rate_per_s:g}"
        return [
            *(str(self.bin / "guidellm"), "run"),
            *("--backend", f"kind=openai_http,target={url},model=truth,timeout={load.timeout_s:g}"),
            *("--profile", profile),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--tokenizer", f"kind=hf_auto,model={self.tokenizer}"),
            *("--data", f"kind=synthetic_text,prompt_tokens=64,output_tokens={load.tokens}"),
            *("--output", "kind=json,path=out.json", "--disable-console-interactive"),
        ]

    def read(self, folder: Path) -> Outcome:
        """Successful requests' percentiles."""
        metrics = _json(folder / "out.json")["benchmarks"][0]["metrics"]

        def pair(name: str, scale: float = 1.0) -> tuple[float, float]:
            found = metrics[name]["successful"]["percentiles"]
            return found["p50"] * scale, found["p99"] * scale

        totals = metrics["request_totals"]
        names = {
            "ttft": lambda: pair("time_to_first_token_ms"),
            "tpot": lambda: pair("inter_token_latency_ms"),
            "e2e": lambda: pair("request_latency", 1e3),
        }
        return Outcome(totals["successful"], totals["errored"] + totals["incomplete"], _present(names))


class AiPerf(_Peer):
    """aiperf."""

    name = "aiperf"

    def environment(self) -> dict[str, str]:
        """It refuses a tokenizer's folder when told to stay offline."""
        return {**OFFLINE, "HF_HUB_OFFLINE": ""}

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """A timeout, since its own is six hours."""
        if load.concurrency is not None:
            shape = ["--concurrency", str(load.concurrency)]
        else:
            shape = ["--request-rate", f"{load.rate_per_s:g}", "--arrival-pattern", load.arrival]
        return [
            *(str(self.bin / "aiperf"), "profile", "-m", "truth", "--url", url),
            *("--endpoint-type", "chat", "--streaming", "--tokenizer", self.tokenizer, *shape),
            *("--request-count", str(load.requests)),
            *("--synthetic-input-tokens-mean", "64", "--synthetic-input-tokens-stddev", "0"),
            *("--output-tokens-mean", str(load.tokens), "--output-tokens-stddev", "0"),
            *("--extra-inputs", "ignore_eos:true", "--artifact-dir", "out", "--ui", "none"),
            *("--no-gpu-telemetry", "--no-server-metrics", "--export-level", "records"),
            *("--request-timeout-seconds", f"{load.timeout_s:g}"),
        ]

    def read(self, folder: Path) -> Outcome:
        """Its summary; each gap is its inter-chunk latency."""
        summary = _json(folder / "out" / "profile_export_aiperf.json")

        def pair(name: str) -> tuple[float, float]:
            return summary[name]["p50"], summary[name]["p99"]

        def count(name: str) -> int:
            return int((summary.get(name) or {"avg": 0})["avg"])

        names = {
            "ttft": lambda: pair("time_to_first_token"),
            "gap": lambda: pair("inter_chunk_latency"),
            "tpot": lambda: pair("inter_token_latency"),
            "e2e": lambda: pair("request_latency"),
        }
        return Outcome(count("request_count"), count("error_request_count"), _present(names))


class InferencePerf(_Peer):
    """inference-perf; its synthetic data work with the completions interface only."""

    name = "inference-perf"

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """Its configuration file (YAML takes JSON). Its cap of 100 requests in flight per worker is lifted."""

        def fixed(tokens: int) -> dict[str, Any]:
            sizes = {"min": tokens, "max": tokens, "mean": tokens, "std_dev": 0}
            return {"type": "fixed", "total_count": load.requests, **sizes}

        shape: dict[str, Any]
        if load.concurrency is not None:
            stage: dict[str, Any] = {"num_requests": load.requests, "concurrency_level": load.concurrency}
            shape = {"type": "concurrent", "stages": [stage]}
        else:
            stage = {"rate": load.rate_per_s, "duration": max(1, round(load.seconds))}
            shape = {"type": load.arrival, "stages": [stage]}
        config = {
            "api": {"type": "completion", "streaming": True},
            "data": {
                "type": "synthetic",
                "input_distribution": fixed(64),
                "output_distribution": fixed(load.tokens),
            },
            "load": {
                "num_workers": _WORKERS,
                "worker_max_concurrency": 1000,
                "request_timeout": load.timeout_s,
                "stage_teardown_grace_seconds": 20,
                "interval": 0,
                **shape,
            },
            "server": {"type": "vllm", "model_name": "truth", "base_url": url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": self.tokenizer},
            "report": {
                "request_lifecycle": {
                    "summary": True,
                    "per_stage": False,
                    "per_request": False,
                    "percentiles": [50, 99],
                }
            },
            "storage": {"local_storage": {"path": "out"}},
        }
        (folder / "config.yml").write_text(json.dumps(config), encoding="utf-8")
        return [str(self.bin / "inference-perf"), "-c", "config.yml"]

    def read(self, folder: Path) -> Outcome:
        """Its summary, in seconds there."""
        summary = _json(folder / "out" / "summary_lifecycle_metrics.json")
        successes = summary["successes"]

        def pair(name: str) -> tuple[float, float]:
            found = successes["latency"][name]
            return found["median"] * 1e3, found["p99"] * 1e3

        names = {
            "ttft": lambda: pair("time_to_first_token"),
            "gap": lambda: pair("inter_token_latency"),
            "tpot": lambda: pair("time_per_output_token"),
            "e2e": lambda: pair("request_latency"),
        }
        return Outcome(successes["count"], summary["failures"]["count"], _present(names))


class VllmBench(_Peer):
    """`vllm bench serve`; one process."""

    name = "vllm-bench"
    processes = False

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """It has no request timeout to set (six hours inside)."""
        if load.concurrency is not None:
            shape = ["--request-rate", "inf", "--max-concurrency", str(load.concurrency)]
        else:
            burstiness = "inf" if load.arrival == "constant" else "1"
            shape = ["--request-rate", f"{load.rate_per_s:g}", "--burstiness", burstiness]
        return [
            *(str(self.bin / "python"), "-m", "vllm.entrypoints.cli.main", "bench", "serve"),
            *("--backend", "openai-chat", "--base-url", url, "--endpoint", "/v1/chat/completions"),
            *("--model", "truth", "--tokenizer", self.tokenizer, "--dataset-name", "random"),
            *("--random-input-len", "64", "--random-output-len", str(load.tokens)),
            *("--num-prompts", str(load.requests), *shape, "--ignore-eos"),
            *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"),
            *("--save-result", "--result-dir", ".", "--result-filename", "out.json", "--disable-tqdm"),
            *("--ready-check-timeout-sec", "0"),
        ]

    def read(self, folder: Path) -> Outcome:
        """Its result file; its ITL is of each gap between events with choices."""
        result = _json(folder / "out.json")

        def pair(name: str) -> tuple[float, float]:
            return result[f"p50_{name}_ms"], result[f"p99_{name}_ms"]

        names = {
            "ttft": lambda: pair("ttft"),
            "gap": lambda: pair("itl"),
            "tpot": lambda: pair("tpot"),
            "e2e": lambda: pair("e2el"),
        }
        outcome = Outcome(result["completed"], result["failed"], _present(names))
        outcome.extra["client_gap_mean_ms"] = result["mean_itl_ms"]
        return outcome


PEERS: dict[str, Callable[[Path, Path], Client]] = {
    peer.name: peer for peer in (VllmBench, GuideLlm, AiPerf, InferencePerf)
}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _present(names: dict[str, Callable[[], tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """What the file really has: a run in which nothing succeeded has no percentiles."""
    found: dict[str, tuple[float, float]] = {}
    for name, read in names.items():
        try:
            low, high = read()
            found[name] = float(low), float(high)
        except (KeyError, TypeError):
            continue
    return found
