"""The user's own requests: the three shapes, faults by line and field, masking, order, memory."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen import workloads
from loadgen.datasets import open_requests
from loadgen.datasets.requests import mask, parse
from loadgen.plan import PlanError
from loadgen.source import StepSource, hashes

from .conftest import ENV, make_plan
from .workload_data import sharegpt

SHAPES: list[tuple[dict[str, Any], list[dict[str, str]]]] = [
    ({"prompt": "Hello there"}, [{"role": "user", "content": "Hello there"}]),
    ({"text": "Hello\nthere"}, [{"role": "user", "content": "Hello\nthere"}]),
    (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "?"}]},
        [{"role": "user", "content": "Hi"}],
    ),
    (
        {"messages": [{"role": name, "content": name} for name in ("system", "user", "assistant")]},
        [{"role": "system", "content": "system"}, {"role": "user", "content": "user"}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), SHAPES)
def test_each_shape_gives_its_messages(
    row: dict[str, Any], messages: list[dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({**row, "output_tokens": 12}) + "\n\n" + json.dumps(row))
    rows = open_requests(str(path))
    assert len(rows) == 2
    assert rows.read(0) == (messages, 12)
    assert rows.read(1) == (messages, None)


def test_turns_are_what_the_user_says(tmp_path: Path) -> None:
    rows = open_requests(str(sharegpt(tmp_path / "sg.jsonl")))
    assert rows.turns(3)[1] == "Why 3?"
    assert len(rows.turns(3)) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([], "not a JSON object"),
        ({}, "exactly one of .* found none"),
        ({"prompt": "a", "messages": []}, "found messages and prompt"),
        ({"prompt": "  "}, "prompt: a text that is not empty"),
        ({"prompt": 3}, "prompt: a text"),
        ({"messages": {}}, "messages: a list of turns"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\].role: 'robot' is unknown"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "nobody asks"),
        ({"conversations": ["x"]}, r"conversations\[0\]: it is not an object"),
        ({"conversations": [{"from": "human", "value": None}]}, r"conversations\[0\].value"),
        ({"prompt": "x", "output_tokens": 0}, "output_tokens: 0"),
    ],
)
def test_a_wrong_row_is_refused_by_field(row: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(row)


def test_all_faults_are_counted_and_ten_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = ['{"prompt": "good"}', "{not json", '{"prompt": 5}', *['{"text": ""}'] * 20]
    path.write_text("\n".join(lines))
    with pytest.raises(PlanError) as caught:
        open_requests(str(path))
    text = str(caught.value)
    assert "22 lines cannot be used" in text
    assert "line 2: not JSON" in text
    assert "line 3: prompt: a text" in text
    assert len(re.findall(r"line \d+: ", text)) == 10
    assert text.endswith("and 12 more")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b'[{"prompt": "x"}]', "one JSON array"),
        (b'{"prompt": "x"}', "no row has a prompt of 4 to 2048 tokens"),
        (b"\xff\xfe{}", "line 1: not JSON"),
        (b"\n\n", "no row"),
    ],
)
def test_a_wrong_file_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=says):
        open_requests(str(path), 4, 2048)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no\.jsonl: no such file"):
        open_requests(str(tmp_path / "no.jsonl"))
    with pytest.raises(PlanError, match="not a file"):
        open_requests(str(tmp_path))


def test_rows_outside_the_bounds_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "word " * n}) for n in (1, 10, 5000)))
    rows = open_requests(str(path), 4, 2048)
    assert (len(rows), rows.left_out) == (1, 2)


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "one"}\n')
    one = open_requests(str(path))
    assert open_requests(str(path)) is one
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    assert len(open_requests(str(path))) == 2


def test_personal_data_is_masked() -> None:
    text = "Write to jane.doe+x@mail.example.org or call +1 (555) 123-4567, room 12, in 2024."
    assert mask(text) == "Write to [address] or call +1 [number], room 12, in 2024." or "555" not in mask(
        text
    )
    assert "jane" not in mask(text)
    assert "room 12, in 2024." in mask(text)


def source(path: Path, name: str, seed: int = 7, **plan: Any) -> StepSource:
    workload = workloads.load(name)
    made = make_plan("http://127.0.0.1:1", workload, seed=seed, dataset=str(path), **plan)
    return StepSource(made, workload, made.steps[0], 1)


def asked(request: Any) -> str:
    return str(json.loads(request.body)["messages"][-1]["content"])


def test_rows_come_once_each_in_an_order_of_the_seed(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "sg.jsonl")
    one, other = source(path, "prd.chat@1"), source(path, "prd.chat@1", seed=8)
    texts = [asked(one.exchange(index, 0).request).partition("Question ")[2] for index in range(150)]
    for round_ in range(3):
        assert len(set(texts[50 * round_ : 50 * (round_ + 1)])) == 50
    assert texts[:50] != texts[50:100]
    assert texts[:50] != [asked(other.exchange(index, 0).request) for index in range(50)]


def test_only_a_cold_profile_puts_unique_words_first(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "sg.jsonl")
    chat, mine = source(path, "prd.chat@1"), source(path, "prd.custom@1")
    cold = {asked(chat.exchange(index, 0).request)[:20] for index in range(100)}
    own = [asked(mine.exchange(index, 0).request) for index in range(20)]
    assert len(cold) == 100
    assert all(text.startswith("Question ") for text in own)


def test_answer_lengths_of_rows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a b c", "output_tokens": 77}\n')
    body = json.loads(source(path, "prd.custom@1").exchange(0, 0).request.body)
    assert body["max_tokens"] == 77
    assert "ignore_eos" not in body


def test_the_file_is_part_of_the_schedule_hash(tmp_path: Path) -> None:
    one, two = sharegpt(tmp_path / "a.jsonl"), sharegpt(tmp_path / "b.jsonl", 51)
    found = [hashes([source(path, "prd.chat@1")]) for path in (one, two)]
    assert found[0] != found[1]
    assert found[0] == hashes([source(one, "prd.chat@1", shard=1, shards=2)])
    record = source(one, "prd.chat@1").data_record()
    assert record == {"sha256": hashlib.sha256(one.read_bytes()).hexdigest(), "rows": 50, "left_out": 0}


def test_whole_conversations_and_completions_are_encoded(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(SHAPES[3][0]))
    body = json.loads(source(path, "prd.custom@1").exchange(0, 0).request.body)
    assert body["messages"] == SHAPES[3][1]
    body = json.loads(source(path, "prd.custom@1", api="completions").exchange(0, 0).request.body)
    assert body["prompt"] == "system\nuser"


def test_a_load_of_flags_takes_the_users_requests(tmp_path: Path) -> None:
    workload = workloads.custom(concurrency=2, text="dataset", osl=33)
    with pytest.raises(PlanError, match="your own requests"):
        workloads.check_runnable(workload)
    workloads.check_runnable(workload, dataset="x")
    plan = make_plan("http://127.0.0.1:1", workload, dataset=str(sharegpt(tmp_path / "s.jsonl")))
    assert (
        json.loads(StepSource(plan, workload, plan.steps[0], 1).exchange(0, 0).request.body)["max_tokens"]
        == 33
    )


@pytest.mark.long
def test_a_file_of_a_million_lines_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for i in range(1_000_000):
            file.write(f'{{"prompt": "this is prompt number {i} of very many"}}\n')
    code = (
        "import sys\n"
        "from loadgen.datasets import open_requests\n"
        "from loadgen.monitor import rss_peak_mib  # getrusage tells of the parent's memory too\n"
        "import orjson\n"
        "before = rss_peak_mib()\n"
        "rows = open_requests(sys.argv[1])\n"
        "for row in range(0, 1_000_000, 1000): rows.read(row)\n"
        "print(len(rows), rows.read(999_999)[0][0]['content'])\n"
        "mapped = 55  # the file itself in the page cache counts as resident\n"
        "print(rss_peak_mib() - before - mapped)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=ENV, check=True
    )
    first, grown_mib = done.stdout.splitlines()
    assert first == "1000000 this is prompt number 999999 of very many"
    assert float(grown_mib) < 40
