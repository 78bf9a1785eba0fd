"""The current commit of a model on the hub.

Belongs here: one look-up, the token taken from the environment at that moment.
Does not belong here: files, sizes and facts of a model (``models``).
"""

from __future__ import annotations

import os
import re

from accelbench_assets.releases.web import TIMEOUT_S, ReleaseError, checked
from accelbench_assets.scrub import scrub

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
WHAT = "The model hub"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class UnknownModelError(ReleaseError):
    """The hub does not show this model: no such name, or it is private or gated and the token does not open it."""


def current_commit(hub_url: str, model_id: str, *, timeout_s: float = TIMEOUT_S) -> str:
    """40 hex digits of the head of *model_id*'s main branch.

    The token is the environment's or none: one stored on this machine is not looked for. Raises ``UnknownModelError``
    for this one model, ``ReleaseError`` when the hub as a whole does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    endpoint = checked(hub_url, "watch.hub_url")
    token = next((value for name in TOKEN_VARIABLES if (value := os.environ.get(name))), None)
    hint = None if token else "A private or gated model needs HF_TOKEN in the environment."
    try:
        # Only the commit is asked for: the answer stays small whatever the model's card holds.
        found = HfApi(endpoint=endpoint).model_info(
            model_id, expand=["sha"], timeout=timeout_s, token=token or False
        )
    except (RepositoryNotFoundError, HFValidationError):
        raise UnknownModelError(f"{WHAT} at {endpoint} does not show {model_id}.", hint=hint) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        kind = UnknownModelError if status in (401, 403, 404) else ReleaseError
        raise kind(
            f"{WHAT} at {endpoint} answered {status or 'an error'} for {model_id}.", hint=hint
        ) from None
    except Exception as error:  # the client library of the day decides what a lost connection is called
        reason = scrub(str(error), (token,) if token else ()) or type(error).__name__
        raise ReleaseError(
            f"{WHAT} at {endpoint} does not answer for {model_id}: {reason[:200]}.",
            hint="It is asked again later.",
        ) from None
    commit = found.sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise UnknownModelError(f"{WHAT} at {endpoint} names no commit of {model_id}.")
    return commit
