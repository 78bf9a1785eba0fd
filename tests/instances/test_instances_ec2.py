"""EC2 asked for real: moto's server with its data of real types, and a small server for pages and refusals."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from accelbench_assets.instances import ec2
from accelbench_assets.instances.ec2 import Ec2Error, RegionAnswer, ask_region
from accelbench_assets.instances.facts import Refreshed, instance_types_table, refresh
from accelbench_assets.lake.tables import SCHEMAS
from partitions.catalog import load_instances

SECRET = "CANARYcanaryCANARYcanaryCANARYcanary0123"


@pytest.fixture(scope="module")
def round_of_two(ec2_url: str) -> Iterator[Refreshed]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "dummy")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "dummy")
        yield refresh(["us-east-1", "us-west-2"], endpoint_url=ec2_url)


def test_every_packaged_type_is_found_and_agrees_but_for_trainium2(round_of_two: Refreshed) -> None:
    assert round_of_two.asked == ("us-east-1", "us-west-2")
    assert round_of_two.failed == {}
    packaged = load_instances()
    assert all(round_of_two.types[name].live for name in packaged)
    told = [(one.subject, one.field, one.live, one.packaged) for one in round_of_two.contradictions]
    # The one figure that is wrong there: 512 GiB for a chip of 96.
    assert ("trn2.48xlarge", "accelerator_memory_mib_each", 524288, 98304) in told
    assert {subject.split(".")[0] for subject, *_ in told} == {"trn2"}
    assert round_of_two.types["trn2.48xlarge"].values["accelerator_memory_mib_total"] == 1536 * 1024


def test_types_that_only_ec2_lists_are_rows_too(round_of_two: Refreshed) -> None:
    more = set(round_of_two.types) - set(load_instances())
    assert "trn2.3xlarge" in more
    small = round_of_two.types["trn2.3xlarge"]
    assert (small.values["neuron_cores"], small.values["accelerator_memory_mib_total"]) == (8, 98304)


def test_where_types_are_offered(round_of_two: Refreshed) -> None:
    assert "us-west-2c" in round_of_two.types["p5e.48xlarge"].zones["us-west-2"]
    assert "us-east-1" not in round_of_two.types["p5e.48xlarge"].zones
    assert round_of_two.types["g6e.xlarge"].zones.keys() == {"us-east-1", "us-west-2"}
    assert "capacity-block" in round_of_two.types["p5.48xlarge"].usage_classes


def test_the_table_of_a_round(round_of_two: Refreshed) -> None:
    table = instance_types_table(round_of_two)
    assert table.schema.equals(SCHEMAS["instance_types"], check_metadata=True)
    table.validate(full=True)
    rows = {row["instance_type"]: row for row in table.to_pylist()}
    assert rows["g6e.xlarge"]["regions"] == ["us-east-1", "us-west-2"]
    assert rows["g6e.xlarge"]["as_of"] == round_of_two.at.date().isoformat()
    assert rows["g6e.xlarge"]["source"].startswith("EC2 DescribeInstanceTypes: accelerator_count")
    assert "NVIDIA datasheets" in rows["g6e.xlarge"]["source"]
    assert rows["p6-b200.48xlarge"]["family"] == "p6"
    assert rows["trn2.3xlarge"]["family"] == "trn2"
    assert rows["trn2.3xlarge"]["confidence"] == "high"


@dataclass
class Fake:
    """What the small EC2 answers; ``asked`` holds the parameters of every request."""

    pages: list[list[str]] = field(default_factory=lambda: [[]])
    endless: bool = False
    error: tuple[int, str] | None = None
    silent_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def fake() -> Iterator[Fake]:
    state = Fake()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            sent = {name: values[0] for name, values in parse_qs(body).items()}
            state.asked.append(sent)
            time.sleep(state.silent_s)
            if state.error:
                status, code = state.error
                text = f"<Response><Errors><Error><Code>{code}</Code><Message>arn:aws:iam::123456789012:user/x {SECRET}"
                return self.reply(
                    status, f"{text}</Message></Error></Errors><RequestID>r</RequestID></Response>"
                )
            action = sent["Action"]
            if action == "DescribeInstanceTypeOfferings":
                names = [value for name, value in sent.items() if name.startswith("Filter.1.Value")]
                items = "".join(
                    f"<item><instanceType>{one}</instanceType><location>xx-test-1a</location></item>"
                    for one in names
                )
                return self.reply(
                    200,
                    f"<{action}Response><instanceTypeOfferingSet>{items}</instanceTypeOfferingSet></{action}Response>",
                )
            page = int(sent.get("NextToken", "0"))
            names = state.pages[page % len(state.pages)]
            items = "".join(
                f"<item><instanceType>{one}</instanceType><vCpuInfo><defaultVCpus>{4 + page}</defaultVCpus></vCpuInfo>"
                "</item>"
                for one in names
            )
            more = state.endless or page + 1 < len(state.pages)
            token = f"<nextToken>{page + 1}</nextToken>" if more else ""
            self.reply(
                200, f"<{action}Response><instanceTypeSet>{items}</instanceTypeSet>{token}</{action}Response>"
            )

        def reply(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who waited has gone
                self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def refused(fake: Fake, region: str = "xx-test-1") -> Ec2Error:
    with pytest.raises(Ec2Error) as caught:
        ask_region(region, ("g5",), endpoint_url=fake.url)
    assert region in str(caught.value)
    assert caught.value.hint
    for secret in (SECRET, "123456789012", "dummy"):
        assert secret not in str(caught.value)
    return caught.value


def test_every_page_is_read(fake: Fake) -> None:
    fake.pages = [["g5.xlarge"], [], ["g5.2xlarge", "g5.4xlarge"]]
    answer = ask_region("xx-test-1", ("g5", "p6"), endpoint_url=fake.url)
    assert [one.instance_type for one in answer.types] == ["g5.xlarge", "g5.2xlarge", "g5.4xlarge"]
    assert [one.vcpu for one in answer.types] == [4, 6, 6]
    assert answer.zones == dict.fromkeys(("g5.xlarge", "g5.2xlarge", "g5.4xlarge"), ("xx-test-1a",))
    asked = [one for one in fake.asked if one["Action"] == "DescribeInstanceTypes"]
    assert [one.get("NextToken") for one in asked] == [None, "1", "2"]
    patterns = {value for name, value in asked[0].items() if name.startswith("Filter.1.Value")}
    assert patterns == {"g5.*", "g5-*.*", "p6.*", "p6-*.*"}
    assert asked[0]["MaxResults"] == "100"


def test_pages_without_end_come_to_an_end(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2, "MOST_PAGES", 5)
    fake.endless, fake.pages = True, [["g5.xlarge"]]
    assert len(ask_region("xx-test-1", ("g5",), endpoint_url=fake.url).types) == 5


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        ((403, "UnauthorizedOperation"), "denied", "ec2:DescribeInstanceTypes and"),
        ((401, "AuthFailure"), "region", "may not be enabled"),
        ((403, "OptInRequired"), "region", "may not be enabled"),
        ((400, "RequestExpired"), "credentials", "Log in to AWS again"),
        ((400, "InvalidParameterValue"), "region", "InvalidParameterValue"),
        ((503, "Unavailable"), "region", "Unavailable"),
    ],
)
def test_refusals_name_the_code_and_never_the_account(
    fake: Fake, error: tuple[int, str], code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2, "ATTEMPTS", 1)
    fake.error = error
    found = refused(fake)
    assert found.code == code
    assert says in str(found)


def test_a_silent_and_an_absent_ec2(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2, "ATTEMPTS", 1)
    monkeypatch.setattr(ec2, "READ_S", 0.2)
    fake.silent_s = 1.0
    assert "does not answer (ReadTimeoutError)" in refused(fake).message
    fake.url = "http://127.0.0.1:9"
    assert "does not answer (EndpointConnectionError)" in refused(fake).message


def test_no_credentials_and_a_profile_that_is_none(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert "the AWS profile or its file cannot be read" in refused(fake).message
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refused(fake)
    assert error.code == "credentials"
    assert error.message == "EC2 in xx-test-1 cannot be asked: there are no AWS credentials."
    assert "`accelbench instances list`" in str(error)
    assert fake.asked == []


@pytest.mark.parametrize("region", ["", "us", "us-east-1.evil.example", "US-EAST-1", "http://x"])
def test_a_name_that_is_no_region_is_refused_before_anything_is_sent(fake: Fake, region: str) -> None:
    with pytest.raises(Ec2Error, match="is not the name of an AWS region"):
        ask_region(region, ("g5",), endpoint_url=fake.url)
    assert fake.asked == []


def answer(region: str, **types: int) -> RegionAnswer:
    from accelbench_assets.instances.describe import read_entry

    entries = [
        read_entry({"InstanceType": name.replace("_", "."), "VCpuInfo": {"DefaultVCpus": vcpu}})
        for name, vcpu in types.items()
    ]
    return RegionAnswer(region, tuple(one for one in entries if one), {})


def test_a_region_that_fails_is_named_and_the_others_stand() -> None:
    def ask(region: str, families: Any, endpoint_url: str | None) -> RegionAnswer:
        if region == "us-east-2":
            raise Ec2Error("No.", code="region", hint="Enable it.")
        return answer(region, g5_xlarge=4)

    done = refresh(["us-east-1", "us-east-2", "us-west-2", "us-east-1"], ask=ask)
    assert done.asked == ("us-east-1", "us-west-2")
    assert done.failed == {"us-east-2": "No. Enable it."}
    absent = done.types["g5.2xlarge"]
    assert not absent.live
    assert absent.provenance["vcpu"].why == "EC2 has it in none of the regions asked; karpenter"
    row = {r["instance_type"]: r for r in instance_types_table(done).to_pylist()}["g5.2xlarge"]
    assert (row["regions"], row["as_of"]) == ([], "2026-08-01")
    assert row["source"].startswith("EC2 has it in none of the regions asked; ")


def test_regions_that_describe_a_type_differently_are_told() -> None:
    def ask(region: str, families: Any, endpoint_url: str | None) -> RegionAnswer:
        return answer(region, g5_xlarge=4 if region == "us-east-1" else 8)

    done = refresh(["us-east-1", "us-west-2"], ask=ask)
    assert done.types["g5.xlarge"].values["vcpu"] == 4
    assert done.doubts == ("g5.xlarge: us-east-1 and us-west-2 describe it differently; us-east-1 stands",)


def test_without_credentials_one_region_is_asked_and_no_more() -> None:
    asked = []

    def ask(region: str, families: Any, endpoint_url: str | None) -> RegionAnswer:
        asked.append(region)
        raise Ec2Error("No credentials.", code="credentials", hint="Set them.")

    with pytest.raises(Ec2Error, match="No credentials"):
        refresh(["us-east-1", "us-east-2"], ask=ask)
    assert asked == ["us-east-1"]
    with pytest.raises(Ec2Error, match="No region"):
        refresh([], ask=ask)
