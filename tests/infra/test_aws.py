"""``infra/aws``: the policy allows exactly what the code asks AWS for."""

from __future__ import annotations

import json
import re

import pytest
from botocore.session import Session

from accelbench_assets.settings import Settings
from tests.infra.files import INFRA, ROOT, one

SERVICES = ("pricing", "ec2", "savingsplans")
ASKING = ("accelbench_assets/pricing/aws", "accelbench_assets/instances")


def asked() -> set[str]:
    """Every operation of the services that a module names, as IAM writes it."""
    sources = [file.read_text() for folder in ASKING for file in (ROOT / folder).glob("*.py")]
    names = {name for source in sources for name in re.findall(r"\b(?:get|describe)_\w+", source)}
    found = set()
    for service in SERVICES:
        model = Session().get_service_model(service)
        operations = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): name for name in model.operation_names}
        found |= {f"{service}:{operations[name]}" for name in names & operations.keys()}
    return found


def test_the_policy_is_what_the_code_asks_for() -> None:
    (statement,) = json.loads((INFRA / "aws" / "prices-and-facts.json").read_text())["Statement"]
    assert statement["Effect"] == "Allow"
    assert set(statement["Action"]) == asked()
    assert len(asked()) == 6
    assert all(re.match(r"\w+:(Get|Describe)", action) for action in statement["Action"]), (
        "nothing is changed"
    )


def test_the_cluster_asks_for_prices_and_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in one("ConfigMap", "accelbench-settings")["data"].items():
        if name.startswith(("ACCELBENCH_PRICES", "ACCELBENCH_FACTS")):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.prices.aws == "api"
    assert settings.facts.refresh_instances
