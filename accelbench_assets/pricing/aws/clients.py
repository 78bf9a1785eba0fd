"""Clients of AWS services: made late, bounded in time, with errors that say what to do.

Belongs here: the one place that makes a ``boto3`` client for prices, and the translation of its errors.
Does not belong here: which operations are called.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from accelbench_assets.pricing.aws.reading import PriceSourceError
from accelbench_assets.scrub import scrub

CONNECT_S = 5.0
ATTEMPTS = 3
HOME_REGION = "us-east-1"
"""The price list and Savings Plans answer for every region from here."""
ACTIONS = {
    "pricing": "pricing:GetProducts",
    "savingsplans": "savingsplans:DescribeSavingsPlansOfferingRates",
    "ec2": "ec2:DescribeSpotPriceHistory and ec2:DescribeCapacityBlockOfferings",
}
NOT_HERE = frozenset(
    {
        "InvalidInput",
        "InvalidInstanceType",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "Unsupported",
        "UnsupportedOperation",
    }
)
"""Error codes that say that the thing asked about is not sold here."""


class NotOffered(Exception):
    """AWS knows the question and says that there is no such thing in this region."""


def client(service: str, region: str, timeout_s: float) -> Any:
    """A client of *service*. Raises ``PriceSourceError`` without boto3 or credentials.

    ``AWS_ENDPOINT_URL`` is not followed here: where the lake is on another S3 server it names that one. The
    service's own ``AWS_ENDPOINT_URL_PRICING`` (``_EC2``, ``_SAVINGSPLANS``) is.
    """
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
    except ImportError:
        raise PriceSourceError(
            "AWS cannot be asked for prices: boto3 is not installed.", hint="pip install 'accelbench[aws]'"
        ) from None
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=timeout_s,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        ignore_configured_endpoint_urls=True,
        user_agent_extra="accelbench",
    )
    endpoint = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}") or None
    with translated(service, region):
        core = botocore.session.get_session()
        core.register_component("data_loader", _loader())
        session = boto3.Session(region_name=region, botocore_session=core)
        if session.get_credentials() is None:
            raise PriceSourceError(
                "AWS cannot be asked for prices: there are no credentials.",
                hint="Set AWS_PROFILE or the AWS_ variables, or use `--source bulk`, which needs none.",
            )
        return session.client(service, config=config, endpoint_url=endpoint)


@cache
def _loader() -> Any:
    """The reader of AWS's service descriptions, shared: that of EC2 has megabytes and would be read for each client."""
    from botocore.loaders import create_loader

    return create_loader()


def has_credentials() -> bool:
    """Whether boto3 and credentials are there. May look at the metadata service of a rented machine, for 2 s."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return False
    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:
        return False


@contextlib.contextmanager
def translated(service: str, region: str) -> Iterator[None]:
    """Errors of boto3 as ``PriceSourceError``, or as ``NotOffered`` where AWS does not sell what was asked about."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        found = error.response.get("Error", {})
        code, message = str(found.get("Code", "")), scrub(str(found.get("Message", "")))
        if service == "ec2" and code in NOT_HERE:
            raise NotOffered(message) from None
        hint = "Ask again later: `accelbench prices refresh --provider aws`."
        if "AccessDenied" in code or code in ("UnauthorizedOperation", "AuthFailure"):
            hint = f"The identity in use needs the action {ACTIONS.get(service, service)}."
        elif code in (
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "ExpiredToken",
            "ExpiredTokenException",
        ):
            hint = "The credentials in use are not valid for AWS (any more)."
        elif code in ("OptInRequired", "InvalidRegion"):
            hint = f"The region {region} is not enabled in this account; leave it out of prices.regions."
        raise PriceSourceError(f"AWS {service} in {region} refused: {code}: {message}", hint=hint) from None
    except NoCredentialsError:
        raise PriceSourceError("AWS cannot be asked for prices: there are no credentials.") from None
    except (BotoCoreError, HTTPClientError) as error:
        raise PriceSourceError(
            f"AWS {service} in {region} does not answer: {scrub(str(error))}",
            hint="Is the network open to AWS? `accelbench prices refresh --provider aws` asks again.",
        ) from None
