"""The load generator as a child: progress, exit codes, the deadline, a dying engine, and what it leaves.

The generator here is a stand-in found first on PYTHONPATH; the real one is driven by its own and the
end-to-end tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.errors import DeadlineExceeded, LaunchError
from accelbench_assets.launch.base import Deadline, Endpoint, LoadManifest, ServerSpec
from accelbench_assets.launch.generator import run_generator
from loadgen.plan import Plan, Replica, Step
from tests.launch.conftest import SpecMaker

KEY = "opaque-value-0452"
Driver = Callable[..., LoadManifest]

PRELUDE = """
import json, os, pathlib, sys, time
plan = json.loads(pathlib.Path(sys.argv[sys.argv.index("--plan") + 1]).read_text())
out = sys.argv[sys.argv.index("--out") + 1].removeprefix("file://")
def say(**event): print(json.dumps(event), flush=True)
def leave(**document):
    folder = pathlib.Path(out) / f"shard={plan['shard']:03d}"
    folder.mkdir(parents=True)
    (folder / "shard.json").write_text(json.dumps(document))
"""


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "model": "m",
        "replicas": (Replica("h:1", "http://h:1"),),
        "steps": (Step(0, "closed", 1, 0.0, 1.0, 0.0),),
        "workload": {},
        "workload_id": "demo.chat@1",
        "workload_hash": "0",
        "seed": 1,
        "request_timeout_s": 60.0,
        "idle_timeout_s": 30.0,
        "deadline_s": 60.0,
    }
    return Plan(**{**fields, **changes})


@pytest.fixture
def drive(tmp_path: Path, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch) -> Driver:
    def run(
        body: str,
        *,
        plan: Plan | None = None,
        events: list[tuple[str, str, Mapping[str, Any]]] | None = None,
        check_alive: Callable[[], None] = lambda: None,
        seconds: float = 30.0,
    ) -> LoadManifest:
        package = tmp_path / "stand-in" / "loadgen"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(PRELUDE + body)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        spec: ServerSpec = make_spec()
        endpoint = Endpoint("m", (Replica("h:1", "http://h:1"),), {}, dict, check_alive)
        record = events if events is not None else []
        return run_generator(
            plan or make_plan(), endpoint, (tmp_path / "incoming").as_uri(), spec, Deadline.after(seconds),
            lambda kind, message, data: record.append((kind, message, data)),
        )  # fmt: skip

    return run


def test_progress_is_relayed_and_shards_are_read_back(drive: Driver) -> None:
    events: list[tuple[str, str, Mapping[str, Any]]] = []
    manifest = drive(
        """
say(event="step_start", step_index=0, phase="warmup")
say(event="progress", step_index=0, phase="measure", completed=3, failed=1)
say(event="warning", message="slow client")
print("stray line")
leave(rows=4, complete=True)
""",
        events=events,
    )
    assert manifest == LoadManifest(({"rows": 4, "complete": True},), 0)
    said = [(kind, message) for kind, message, _ in events]
    assert said == [
        ("progress", "step 0 warmup"),
        ("progress", "step 0 measure: 3 completed, 1 failed"),
        ("warning", "slow client"),
        ("log", "stray line"),
    ]
    assert events[1][2]["completed"] == 3


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("sys.exit('error: The disk is full: writing x failed.')", "disk_full", "The disk is full"),
        ("sys.exit('error: the server is gone')", "loadgen_failed", "exit code 1: the server is gone"),
        ("sys.exit(2)", "loadgen_failed", "exit code 2: it said nothing"),
        ("os.kill(os.getpid(), 9)", "loadgen_failed", "ended by signal 9"),
        ("pass", "loadgen_failed", "left no readable shard.json"),
        ("sys.exit('error: api_key=abcdefgh was refused')", "loadgen_failed", "api_key=****"),
    ],
)
def test_each_way_to_fail_has_its_code(body: str, code: str, says: str, drive: Driver) -> None:
    with pytest.raises(LaunchError) as caught:
        drive(body)
    assert (caught.value.code, says in caught.value.message) == (code, True), caught.value.message


def test_the_deadline_ends_a_generator_that_hangs(drive: Driver) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="passed while load was driven"):
        drive("time.sleep(600)", seconds=0.5)
    assert time.monotonic() - started < 60


def test_its_own_deadline_is_a_deadline(drive: Driver) -> None:
    with pytest.raises(DeadlineExceeded, match="the deadline of 55 s passed"):
        drive("sys.exit('error: the deadline of 55 s passed')")


def test_a_dead_engine_ends_the_load_at_once(drive: Driver, tmp_path: Path) -> None:
    def check_alive() -> None:
        if (tmp_path / "incoming" / "shard=000").exists():
            raise LaunchError("llamacpp was killed.", code="crashed")

    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        drive("leave(complete=False); time.sleep(600)", check_alive=check_alive)
    assert caught.value.code == "crashed"
    assert time.monotonic() - started < 60


def test_only_the_named_key_reaches_the_generator_and_nothing_is_kept(
    drive: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_ACCESS", KEY)  # a name that does not look secret
    monkeypatch.setenv("OTHER_SECRET", "never-passed-on")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-needed-for-a-folder")
    manifest = drive(
        """
print("key", os.environ["MY_ACCESS"], file=sys.stderr)
leave(names=sorted(os.environ), header=plan["headers"]["X-Api-Key"])
""",
        plan=make_plan(api_key_env="MY_ACCESS", headers={"X-Api-Key": KEY, "X-Team": "a"}),
    )
    shard = manifest.shards[0]
    assert shard["header"] == KEY, "the generator itself needs it"
    assert "MY_ACCESS" in shard["names"]
    assert not {"OTHER_SECRET", "AWS_SECRET_ACCESS_KEY"} & set(shard["names"])
    work = tmp_path / "work"
    assert (work / "loadgen.log").read_text() == "key ****\n"
    plan = json.loads((work / "plan.json").read_text())
    assert plan["headers"] == {"X-Api-Key": "****", "X-Team": "a"}
    assert oct((work / "plan.json").stat().st_mode & 0o777) == "0o600"
