"""``accelbench instances``: what a person and a program see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from accelbench_assets.cli import state
from accelbench_assets.cli.instances import app
from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.instances.facts import packaged_age
from partitions.catalog import load_instances

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    state.reset()


def run(*words: str) -> None:
    typer.main.get_command(app).main(list(words), standalone_mode=False)


def test_list_says_how_old_the_facts_are(capsys: Capture) -> None:
    run("list")
    out, err = capsys.readouterr()
    age = packaged_age()
    assert len(out.splitlines()) == len(load_instances()) + 2
    assert f"Packaged facts of {age.as_of} ({age.days} days old); --refresh asks EC2." in err
    assert "16 x trainium2" in out


def test_list_for_a_program(capsys: Capture) -> None:
    run("list", "--family", "trn2", "--json")
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["accelerator_memory_mib_total"] == 1572864
    assert (row["regions"], row["zones"], row["as_of"]) == (None, None, "2026-08-01")
    assert row["age_days"] == packaged_age().days
    run("list", "--kind", "neuron", "--format", "csv")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 8


def test_show_gives_every_figure_its_source(capsys: Capture) -> None:
    run("show", "G5.xlarge", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["fields"]["accelerator_memory_mib_each"] == {
        "value": 22888,
        "source": "package",
        "why": "EC2 was not asked; baseten+karpenter, medium confidence",
    }
    run("show", "g7e.48xlarge")
    out, _ = capsys.readouterr()
    assert "bf16 of each:" in out
    assert "not known" in out
    assert "not asked (--refresh)" in out


def test_refresh_warns_of_contradictions(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, ec2_url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", ec2_url)
    run("show", "trn2.48xlarge", "--refresh", "--regions", "us-west-2", "--json")
    out, err = capsys.readouterr()
    document = json.loads(out)
    (told,) = document["contradictions"]
    assert "524288" in told
    assert "98304" in told
    assert f"warning: {told}" in err
    assert document["accelerator_memory_mib_total"] == 1572864
    assert document["fields"]["vcpu"]["source"] == "ec2"
    assert document["age_days"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "g9.xlarge"), "'g9.xlarge' is no instance type known here. Did you mean"),
        (("list", "--family", "g9"), "--family: 'g9' is no family here."),
        (("list", "--kind", "tpu"), "--kind: 'tpu' is neither gpu nor neuron."),
        (("list", "--regions", "us-east-1"), "--regions is of EC2: give --refresh as well."),
    ],
)
def test_wrong_usage(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert says in str(caught.value)


@pytest.mark.usefixtures("no_credentials")
def test_refresh_without_credentials_says_what_to_do() -> None:
    with pytest.raises(AccelBenchError, match="there are no AWS credentials") as caught:
        run("list", "--refresh")
    assert "AWS_PROFILE" in (caught.value.hint or "")
