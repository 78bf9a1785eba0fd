"""Asking EC2 what instance types are and where they are offered.

Belongs here: the two calls, their pages and bounds, one sentence for each way they fail. Does not belong here: what the
answers mean (``describe``), comparing them with the package (``merge``).

Credentials are found by the AWS library itself (environment, profile, role). The calls need ec2:DescribeInstanceTypes
and ec2:DescribeInstanceTypeOfferings, change nothing and cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.instances.describe import LiveInstance, read_entry

CONNECT_S, READ_S, ATTEMPTS = 5.0, 20.0, 3
PAGE = 100
MOST_PAGES = 50
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_OFFLINE = "Packaged instance types are shown without AWS: `accelbench instances list`."
_NAMES = 150  # filter values of one request; EC2 allows 200


class Ec2Error(AccelBenchError):
    """EC2 did not answer for a region. ``code``: credentials, denied, region, network, refused, library.

    Codes other than ``region`` mean that another region will not answer either.
    """

    def __init__(self, message: str, *, code: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class RegionAnswer:
    """What one region has: its types, and the zones that offer each (names as the asking account has them)."""

    region: str
    types: tuple[LiveInstance, ...]
    zones: dict[str, tuple[str, ...]]


def ask_region(region: str, families: Sequence[str], *, endpoint_url: str | None = None) -> RegionAnswer:
    """The types of *families* in *region*, and their zones. Raises ``Ec2Error``.

    *endpoint_url* replaces the region's address (tests; the variable AWS_ENDPOINT_URL_EC2 does it too).
    """
    if not _REGION.fullmatch(region):
        raise Ec2Error(
            f"{region!r} is not the name of an AWS region.",
            code="region",
            hint="It is of the form us-east-1.",
        )
    client = _client(region, endpoint_url)
    try:
        # p6 is a family here and not in EC2, whose types are p6-b200.48xlarge.
        patterns = [pattern for family in families for pattern in (f"{family}.*", f"{family}-*.*")]
        entries = _pages(
            client.describe_instance_types,
            "InstanceTypes",
            Filters=[{"Name": "instance-type", "Values": patterns}],
            MaxResults=PAGE,
        )
        types = [one for entry in entries if (one := read_entry(entry)) is not None]
        zones: dict[str, set[str]] = {}
        names = sorted({one.instance_type for one in types})
        for at in range(0, len(names), _NAMES):
            for offer in _pages(
                client.describe_instance_type_offerings,
                "InstanceTypeOfferings",
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": names[at : at + _NAMES]}],
                MaxResults=1000,
            ):
                kind, zone = offer.get("InstanceType"), offer.get("Location")
                if isinstance(kind, str) and isinstance(zone, str):
                    zones.setdefault(kind, set()).add(zone)
    except Exception as error:
        _explain(region, error)
    finally:
        client.close()
    return RegionAnswer(region, tuple(types), {name: tuple(sorted(found)) for name, found in zones.items()})


def _client(region: str, endpoint_url: str | None) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise Ec2Error(
            "The AWS library is not installed.",
            code="library",
            hint=f"pip install 'accelbench[aws]'. {_OFFLINE}",
        ) from None
    try:
        return boto3.session.Session().client(
            "ec2",
            region_name=region,
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            ),
        )
    except Exception as error:
        _explain(region, error)


def _pages(call: Any, key: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Every element of every page; a server that never comes to an end is left after ``MOST_PAGES``."""
    token: str | None = None
    for _ in range(MOST_PAGES):
        answer = call(**request, **({"NextToken": token} if token else {}))
        yield from (one for one in answer.get(key) or () if isinstance(one, dict))
        following = answer.get("NextToken") or None
        if following is None or following == token:
            return
        token = following


def _explain(region: str, error: Exception) -> NoReturn:
    """Raise the sentence for *error*. Texts of AWS are left out: they may name accounts and roles."""
    if isinstance(error, Ec2Error):
        raise error
    name = type(error).__name__
    where = f"EC2 in {region}"
    if name in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "NoAuthTokenError",
    ):
        raise Ec2Error(
            f"{where} cannot be asked: there are no AWS credentials.",
            code="credentials",
            hint=f"Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. {_OFFLINE}",
        ) from None
    if name in ("ProfileNotFound", "ConfigNotFound", "ConfigParseError"):
        raise Ec2Error(
            f"{where} cannot be asked: the AWS profile or its file cannot be read.",
            code="credentials",
            hint="Check AWS_PROFILE and ~/.aws/config.",
        ) from None
    if "Token" in name or "SSO" in name:
        raise Ec2Error(
            f"{where} cannot be asked: the AWS login has expired.",
            code="credentials",
            hint="Run `aws sso login`.",
        ) from None
    reply = getattr(error, "response", None)
    code = str((reply.get("Error") or {}).get("Code", "")) if isinstance(reply, dict) else ""
    if code in ("AuthFailure", "OptInRequired"):
        raise Ec2Error(
            f"{where} does not accept the credentials ({code}).",
            code="region",
            hint="The region may not be enabled for the account; if every region says so, the credentials are wrong.",
        ) from None
    if code in ("ExpiredToken", "RequestExpired", "ExpiredTokenException", "InvalidClientTokenId"):
        raise Ec2Error(
            f"{where} does not accept the credentials ({code}).",
            code="credentials",
            hint="Log in to AWS again.",
        ) from None
    if code in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
        raise Ec2Error(
            f"The AWS credentials may not ask {where} ({code}).",
            code="denied",
            hint="Allow ec2:DescribeInstanceTypes and ec2:DescribeInstanceTypeOfferings.",
        ) from None
    if code:
        raise Ec2Error(f"{where} answered {code}.", code="region", hint="Ask again later.") from None
    raise Ec2Error(
        f"{where} does not answer ({name}).",
        code="region" if name == "EndpointConnectionError" else "network",
        hint=f"Check the network, the proxy and the region's name. {_OFFLINE}",
    ) from None
