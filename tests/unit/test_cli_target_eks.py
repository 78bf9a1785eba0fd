"""``run --instance g6e.xlarge``: what is refused, which cell it is, what the dry run says would be made and paid."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from accelbench_assets.cli import main as cli_main
from accelbench_assets.cli.cells import expanded
from accelbench_assets.lake.lake import Lake
from partitions.catalog import load_instances, load_models, load_suites
from partitions.cell import BenchmarkCell
from tests.support.runs import make_cell

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CELL = ("--instance", "g6e.xlarge", "--model", "llama-3.1-8b-instruct", "--max-model-len", "10240")
SHORT = ("--concurrency", "2", "--isl", "64", "--osl", "32")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli_main.main(list(words))
    shown = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, shown.out, shown.err


def plan_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = call(capsys, "run", "--dry-run", "--json", *words)
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "llama-3.1-8b-instruct"], "--launcher eks, or set launcher"),
        (["--model", "llama-3.1-8b-instruct", "--launcher", "eks"], "--lake: the load generator writes into it"),
        (["--dry-run"], "--model: say which model to serve"),
        (["--dry-run", "--model", "lama-3.1-8b-instruct"], "--model: 'lama-3.1-8b-instruct' is unknown. Did you mean"),
        (["--dry-run", *CELL, "--instance", "g6e.3xlarge"], "--instance: 'g6e.3xlarge' is not in the catalog. Did"),
        (["--dry-run", *CELL, "--instance", "g66.xlarge"], "--instance: 'g66.xlarge' is unknown. Did you mean"),
        (["--dry-run", *CELL, "--engine", "llamacpp"], "--engine: llamacpp has no image"),
        (["--dry-run", *CELL, "--engine-version", "v 1"], "--engine-version: 'v 1' is not a lower-case version"),
        (["--dry-run", *CELL, "--quantization", "awq"], "--quantization: the checkpoint of llama-3.1-8b-instruct is"),
        (["--dry-run", *CELL, "--model", "gpt-oss-20b", "--quantization", "fp8"], "--quantization: the checkpoint of"),
        (["--dry-run", *CELL, "--model-revision", "main"], "--model-revision: 'main' is not a commit of 40 hex"),
        (["--dry-run", *CELL, "--tp", "2"], "--instance g6e.xlarge: llama-3.1-8b-instruct with tp 2 needs 2 ranks"),
        (["--dry-run", *CELL, "--instance", "g6e.12xlarge", "--tp", "3"], "32 attention heads do not divide by tp 3"),
        (["--dry-run", *CELL, "--max-model-len", "200000"], "is beyond the model's 131072 positions"),
        (["--dry-run", *CELL, "--instance", "g5.xlarge", "--max-model-len", "65536"], "GiB a rank"),
        (["--dry-run", *CELL, "--concurrency", "1", "--isl", "10000", "--osl", "241"], "make 10241 tokens a request"),
        (["--dry-run", *CELL, "--instance", "trn1.2xlarge", "--tp", "2", "--engine-version", "0.33.0"],
         "--engine-version: 0.33.0 is not a version of vLLM on Neuron"),
        (["--dry-run", *CELL, "--workers", "2"], "--workers: the processes of one generator"),
        (["--dry-run", *CELL, "--port", "8000"], "--port: a server on EKS has its own address"),
        (["--dry-run", *CELL, "--proxy-env", "HOME"], "--proxy-env: the generator runs in the cluster"),
        (["--dry-run", *CELL, "--dataset", "/nowhere.jsonl"], "--dataset: there is no file /nowhere.jsonl"),
        (["--dry-run", *CELL, "--find-capacity", "--slo", "chat", "--shards", "2"], "--shards: a capacity search"),
    ],
)  # fmt: skip
def test_refusals_name_the_flag(
    words: list[str], says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "run", "--instance", "g6e.xlarge", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert not (home / "lake").exists(), "a refused run leaves nothing behind"


def test_a_model_without_a_commit_is_not_launched(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_models()["smollm2-135m-instruct"].commit is None
    words = ("--instance", "g6e.xlarge", "--model", "smollm2-135m-instruct")
    code, _, err = call(capsys, "run", "--dry-run", *words)
    assert code == 2
    assert "--model smollm2-135m-instruct: the catalog knows no commit" in err
    assert "--model-revision COMMIT" in err
    plan = plan_of(capsys, *words, "--model-revision", COMMIT.upper())
    cell = plan["cell"]
    assert cell["revision"] == COMMIT[:7]
    assert f"'--revision', '{COMMIT}'" in str(plan["manifests"]), "the server is told the whole commit"
    assert cell["deployment"]["quantization"] == "none", "the row's q4_1 is that of the local engine's file"


def test_one_commit_is_one_cell_however_it_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = load_models()["llama-3.1-8b-instruct"]
    assert row.commit is not None
    keys = {
        plan_of(capsys, *CELL, *more)["cell_key"]
        for more in ((), ("--model-revision", row.commit), ("--model-revision", row.commit[:9]))
    }
    assert len(keys) == 1
    by_id = ("--instance", "g6e.xlarge", "--max-model-len", "10240", "--model", row.model_id)
    assert plan_of(capsys, *by_id)["cell_key"] in keys


def test_flags_make_the_very_cells_of_the_suite(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = {cell.key_text for cell in expanded(load_suites()["catalog"])}
    load = ("--workload", "fixed.1k1k@1", "--deadline", "86400")
    common = ("--max-model-len", "10240", *load)
    made = [
        plan_of(capsys, "--instance", instance, "--model", model, "--tp", tp, *common)["cell_key"]
        for instance, model, tp in (
            ("g6e.xlarge", "llama-3.1-8b-instruct", "1"),
            ("p5.48xlarge", "gpt-oss-120b", "2"),
            ("p5e.48xlarge", "deepseek-r1", "8"),
            ("inf2.8xlarge", "qwen3-8b", "2"),
            ("trn2.48xlarge", "qwen3-8b", "4"),
        )
    ]
    assert set(made) <= catalog
    quantised = plan_of(
        capsys, "--instance", "g6e.12xlarge", "--model", "llama-3.3-70b-instruct", "--tp", "4",
        "--quantization", "fp8", *common,
    )  # fmt: skip
    assert quantised["cell_key"] in catalog


def test_what_does_not_fit_can_be_measured_on_purpose(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big = ("--instance", "g5.xlarge", "--model", "llama-3.1-8b-instruct", *SHORT)
    code, _, err = call(capsys, "run", "--dry-run", *big)
    assert code == 2
    assert "--allow-misfit to measure that it does not fit" in err
    assert "a --max-model-len below 131072" in err
    assert plan_of(capsys, *big, "--allow-misfit")["cell"]["instance"] == "g5.xlarge"


def test_every_replica_has_an_instance_to_itself(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, three = plan_of(capsys, *CELL, *SHORT), plan_of(capsys, *CELL, *SHORT, "--replicas", "3")
    assert three["estimate"]["usd_per_hour"] == pytest.approx(3 * one["estimate"]["usd_per_hour"])
    (deployment,) = [m for m in three["manifests"] if m["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 3
    (plan,) = [
        json.loads(m["data"]["plan.json"]) for m in three["manifests"] if "plan.json" in m.get("data", {})
    ]
    assert len(plan["replicas"]) == 3


def test_the_deadline_grants_what_the_settings_do(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELBENCH_KUBE__PROVISIONING_S", "600")
    monkeypatch.setenv("ACCELBENCH_KUBE__START_S", "1000")
    plan = plan_of(capsys, *CELL, *SHORT)
    assert plan["deadline_s"] == pytest.approx(1600 + 1.5 * plan["planned_s"])
    monkeypatch.setenv("ACCELBENCH_KUBE__START_S", "10000")
    assert plan_of(capsys, *CELL, *SHORT)["deadline_s"] == 7200
    assert plan_of(capsys, *CELL, *SHORT, "--deadline", "9000")["deadline_s"] == 9000


def test_the_estimate_or_why_there_is_none(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELBENCH_USD_PER_HOUR", "0.01")  # this machine's, so none of an instance
    estimate = plan_of(capsys, *CELL, *SHORT, "--deadline", "1800")["estimate"]
    assert estimate["hours"] == pytest.approx(1.0), "deadline, its idle node, and two more that may be rented"
    assert estimate["usd"] == pytest.approx(estimate["usd_per_hour"], rel=1e-6)
    assert estimate["usd_per_hour"] > 1
    declared = plan_of(capsys, *CELL, *SHORT, "--usd-per-hour", "2.5")
    assert declared["estimate"]["usd_per_hour"] == 2.5
    assert declared["request"]["usd_per_hour"] == 2.5
    monkeypatch.setenv("ACCELBENCH_REGION", "eu-west-3")
    missing = plan_of(capsys, *CELL, *SHORT)["estimate"]
    assert missing["usd"] is None
    assert "eu-west-3 is not known" in missing["missing_reason"]
    monkeypatch.setenv("ACCELBENCH_BUDGET__MAX_USD_PER_RUN", "1")
    code, out, _ = call(capsys, "run", "--dry-run", *CELL, *SHORT, "--usd-per-hour", "9")
    assert code == 0
    assert "more than the cap of 1 USD a run" in out


def test_a_dry_run_prints_manifests_as_yaml(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = home.parent / "mine.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    words = ("--dry-run", *CELL, *SHORT, "--shards", "2", "--seed", "7", "--dataset", str(data))
    code, out, err = call(capsys, "run", *words)
    assert code == 0, err
    assert "nothing was started" in err
    assert not home.exists()
    objects = list(yaml.safe_load_all(out))
    assert [one["kind"] for one in objects] == [
        *("ConfigMap", "Lease", "Service", "Deployment", "ConfigMap", "Job")
    ]
    comments = [line for line in out.splitlines() if line.startswith("#")]
    assert any("Known only while the run is under way" in line for line in comments)
    assert any(line.startswith("# cost ") for line in comments)
    anchor, *owned = objects
    names = {one["metadata"]["name"] for one in objects}
    assert names == {f"accelbench-{'0' * 12}{end}" for end in ("", "-plan", "-load")}
    assert "uid" not in anchor["metadata"]
    for one in owned:
        assert one["metadata"]["ownerReferences"][0]["name"] == anchor["metadata"]["name"]
    assert {one["metadata"]["namespace"] for one in objects} == {"accelbench-bench"}
    job = objects[-1]
    assert job["spec"]["completions"] == 2
    plan = json.loads(objects[4]["data"]["plan.json"])
    assert (plan["shards"], plan["seed"]) == (2, 7)
    assert plan["dataset"].endswith("/dataset-mine.jsonl")
    assert "&id" not in out
    shown = plan_of(capsys, *words[1:])
    assert [m["kind"] for m in shown["manifests"]] == [one["kind"] for one in objects]


def test_the_request_says_who_asked_and_with_how_many(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from accelbench_assets.cli.target_eks import user_name

    request = plan_of(capsys, *CELL, *SHORT, "--shards", "3")["request"]
    assert request["load"]["shards"] == 3
    assert request["requested_by"] == user_name()
    assert request["model_id"] == "meta-llama/Llama-3.1-8B-Instruct"


def test_a_registered_cell_of_an_instance_can_be_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake.open((home / "lake").as_uri())
    cell = expanded(load_suites()["catalog"])[0]
    local = make_cell(instance="local-00000000")
    for one in (cell, local):
        lake.put_cell(one)
    by_id = ("--cell", cell.cell_id[:8], "--deadline", "86400")
    plan = plan_of(capsys, *by_id)
    assert plan["cell_key"] == cell.key_text
    assert any(m["kind"] == "Deployment" for m in plan["manifests"])
    code, _, err = call(capsys, "run", *by_id)
    assert code == 2
    assert f"--cell: {cell.instance} is a rented machine" in err
    code, _, err = call(capsys, "run", "--dry-run", *by_id, "--tp", "2")
    assert code == 2
    assert "--tp cannot be combined with --cell" in err
    code, _, err = call(capsys, "run", "--dry-run", "--cell", local.cell_id)
    assert code == 2
    assert "local-00000000 is another machine" in err


def test_the_flag_reaches_the_child_as_a_setting(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelbench_assets.cli.state import STATE

    seen = []
    monkeypatch.setenv("ACCELBENCH_LAUNCHER", "local")
    monkeypatch.setattr(
        "accelbench_assets.cli.launching.launch", lambda target, **_: seen.append(STATE.settings.launcher)
    )
    code, _, err = call(capsys, "--lake", "s3://bucket/lake", "run", "--launcher", "eks", *CELL, *SHORT)
    assert code == 0, err
    assert seen == ["eks"]


def test_the_attempt_of_an_instance_says_eks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from accelbench_assets.cli.launching import as_run_request
    from accelbench_assets.cli.target import Flags, resolve

    flags = Flags(
        instance="g6e.xlarge", model="llama-3.1-8b-instruct", max_model_len=10240, concurrency=("1",), seed=1
    )
    target = resolve(flags, home, prepare=False)
    request = as_run_request(target, {**target.request, "run_id": "r1", "reproduce_command": "again"})
    assert request.launcher_name == "eks"
    assert request.cell == BenchmarkCell.from_dict(target.request["cell"])
    assert request.cell.instance in load_instances()
