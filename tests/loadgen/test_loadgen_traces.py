"""Arrival traces: the public formats, faults by line and field, replay through a step, block text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen import workloads
from loadgen.datasets import open_trace
from loadgen.plan import PlanError
from loadgen.source import StepSource, hashes

from . import workload_data as made
from .conftest import ENV, make_plan


def test_azure_rows_are_read_to_the_last_decimal(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n"
        "2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:15:51,12,0\r\n"
    )
    trace = open_trace(str(path), "azure")
    assert list(trace.offsets_ns) == [0, 4_314_579_000, 4_319_410_000]
    assert list(trace.input_tokens) == [374, 396, 12]
    assert list(trace.output_tokens) == [44, 109, 1]  # nothing can be asked to answer nothing
    assert not trace.has_hashes


def test_azure_dates_with_a_zone_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:00.017335+00:00,2399,6\n"
    )
    assert list(open_trace(str(path)).offsets_ns) == [0, 7_405_000]


def test_burstgpt_leaves_out_and_counts_what_failed(tmp_path: Path) -> None:
    trace = open_trace(str(made.burstgpt(tmp_path / "b.csv")))
    assert (trace.kind, len(trace), trace.left_out) == ("burstgpt", 90, 10)
    assert (trace.input_tokens[0], trace.output_tokens[0], trace.offsets_ns[1]) == (400, 100, 2_500_000_000)


def test_mooncake_rows_keep_their_hashes(tmp_path: Path) -> None:
    rows = made.mooncake_rows()
    trace = open_trace(str(made.mooncake(tmp_path / "m.jsonl")), "mooncake")
    assert trace.has_hashes
    assert [list(trace.hashes(row)) for row in range(len(trace))] == [row["hash_ids"] for row in rows]
    assert trace.offsets_ns[-1] == rows[-1]["timestamp"] * 1_000_000  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "line 2: TIMESTAMP: 'yesterday'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,x,1\n", "line 2: ContextTokens: 'x'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1,-1\n", "line 2: GeneratedTokens: '-1'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1\n", "line 2: 2 fields; GeneratedTokens is missing"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-17,1,1\n2023-11-16,1,1\n",
            "line 3: timestamp: earlier than the line before",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-17,1,1\n", "at least two arrivals"),
        ("Timestamp,Request tokens,Response tokens\n1,nan,2\n", "line 2: Request tokens: 'nan'"),
        ("Timestamp,Request tokens,Response tokens\ninf,1,2\n", "line 2: Timestamp: 'inf'"),
        ('{"timestamp": 1, "input_length": 5}\n', "line 1: output_length: 'None'"),
        ('{"timestamp": 1, "input_length": "5", "output_length": 1}\n', "line 1: input_length"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [-1]}\n', "line 1: hash_ids"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1}\n{"x\n', "line 2: not JSON"),
        ("a,b,c\n1,2,3\n", "not that of a trace of format azure, mooncake or burstgpt"),
        ('{"prompt": "x"}\n', "not that of a trace"),
        ("", "the file is empty"),
    ],
)  # fmt: skip
def test_a_wrong_trace_is_refused_by_line_and_field(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    with pytest.raises(PlanError, match=says):
        open_trace(str(path))


def test_a_trace_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="format mooncake"):
        open_trace(str(made.azure(tmp_path / "a.csv")), "mooncake")


def source(path: Path, name: str, rate: float | None = None, **changes: Any) -> StepSource:
    document = {**workloads.load(name).document, **changes}
    if rate is not None:
        document["ladder"] = [rate]
    workload = workloads.from_document(document)
    plan = make_plan("http://127.0.0.1:1", workload, dataset=str(path))
    return StepSource(plan, workload, plan.steps[0], workload.isl)


def test_a_trace_replays_its_times_and_lengths(tmp_path: Path) -> None:
    path = made.azure(tmp_path / "a.csv")
    trace = open_trace(str(path), "azure")
    step = source(path, "azure23.conv@1", rate=11.0)
    lead = 60_000_000_000
    first = next(index for index, at in enumerate(step.due_ns) if at >= lead)
    own_rate = 400 / (trace.offsets_ns[-1] / 1e9 * 400 / 399)
    for k in range(0, 400, 7):
        assert step.due_ns[first + k] - lead == pytest.approx(trace.offsets_ns[k] * own_rate / 11.0, abs=2)
    request = step.exchange(first + 5, 0).request
    assert request.input_tokens == trace.input_tokens[5]
    assert request.output_tokens == trace.output_tokens[5]
    assert json.loads(request.body)["min_tokens"] == trace.output_tokens[5]
    assert len(step.due_ns) / (60 + 3500 + 120) == pytest.approx(11.0, rel=0.01)
    assert step.data_record() == {
        "sha256": trace.sha256,
        "rows": 400,
        "left_out": 0,
        "trace": {
            "requests_per_s": pytest.approx(own_rate),
            "scaling": "time",
            "factor": pytest.approx(11 / own_rate),
        },
    }


def test_thinning_is_an_option_and_recorded_in_the_document(tmp_path: Path) -> None:
    path = made.azure(tmp_path / "a.csv")
    thin = {"format": "azure", "scaling": "thin"}
    step = source(path, "azure23.conv@1", rate=2.0, trace=thin)
    assert len(step.due_ns) / 3680 == pytest.approx(2.0, rel=0.08)
    assert hashes([step])[0] != hashes([source(path, "azure23.conv@1", rate=2.0)])[0]


def test_equal_block_hashes_give_equal_text(tmp_path: Path) -> None:
    """What a server with an infinite prefix cache could reuse is what the trace's hashes promise."""
    rows = made.mooncake_rows()
    step = source(made.mooncake(tmp_path / "m.jsonl"), "mooncake.conv@1", rate=10.0)
    first = next(index for index, at in enumerate(step.due_ns) if at >= 60_000_000_000)
    seen_hashes: set[int] = set()
    seen_text: set[tuple[bytes, ...]] = set()
    hits = {"hashes": 0, "text": 0}
    for k in range(150):
        words = step.exchange(first + k, 0).request.prompt.split()
        assert len(words) == rows[k]["input_length"]  # a word a token
        listed = rows[k]["hash_ids"]
        assert isinstance(listed, list)
        whole = listed[: len(words) // 512]
        known = [h in seen_hashes for h in whole]
        hits["hashes"] += known.index(False) if False in known else len(known)
        blocks = [tuple(words[: 512 * (b + 1)]) for b in range(len(whole))]
        met = [block in seen_text for block in blocks]
        hits["text"] += met.index(False) if False in met else len(met)
        seen_hashes |= set(whole)
        seen_text |= set(blocks)
    assert hits["text"] == hits["hashes"] > 100


def test_rounds_of_a_trace_share_no_text(tmp_path: Path) -> None:
    step = source(made.mooncake(tmp_path / "m.jsonl", count=40), "mooncake.conv@1", rate=10.0)
    rows = made.mooncake_rows(40)
    assert step._places is not None
    firsts = [(place // 40, rows[place % 40]["hash_ids"][0]) for place in step._places[:400]]  # type: ignore[index]
    texts = {step.exchange(index, 0).request.prompt[:60] for index in range(400)}
    assert len(texts) == len(set(firsts)) > 60


@pytest.mark.long
def test_a_trace_of_a_million_rows_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n")
        for i in range(1_000_000):
            file.write(f"{i / 10},ChatGPT,{i % 4000 + 1},{i % 600 + 1},0,API log\n")
    code = (
        "import sys\n"
        "from loadgen.datasets import open_trace, traces\n"
        "from loadgen.monitor import rss_peak_mib  # getrusage tells of the parent's memory too\n"
        "before = rss_peak_mib()\n"
        "print(len(open_trace(sys.argv[1])))\n"
        "print(rss_peak_mib() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=ENV, check=True
    )
    rows, grown_mib = map(float, done.stdout.split())
    assert rows == 1_000_000
    mapped_mib = path.stat().st_size / 2**20  # pages of the file itself count as resident
    assert grown_mib - mapped_mib < 48


def test_quoted_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('Timestamp,Model,Request tokens,Response tokens\n1,"a, b",5,6\n"2",x,7,8\n')
    assert list(open_trace(str(path)).input_tokens) == [5, 7]
