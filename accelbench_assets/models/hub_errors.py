"""One sentence for each way a look-up on the hub fails: what happened, to which model, what to do.

Belongs here: ``HubError`` and the reading of the client library's exceptions. Does not belong here: requests (``hub``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.scrub import scrub

_OFFLINE = "Packaged models are shown without the hub: `accelbench models list`."


class HubError(AccelBenchError):
    """The hub did not give the facts of one model. ``code``: missing, gated, token, revision, no_config, bad_config,
    network, refused, setting. Names the model and the hub, never a token.
    """

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class Asking:
    """One look-up: the model, where, and with which token (of which variable)."""

    model_id: str
    endpoint: str
    token: str | None = field(repr=False)
    variable: str | None
    timeout_s: float

    def fail(self, message: str, code: str, hint: str) -> NoReturn:
        """Raise ``HubError``, the token cut out wherever it stands."""
        secrets = (self.token,) if self.token else ()
        raise HubError(scrub(message, secrets), code=code, hint=hint) from None


def no_config(ask: Asking, files: Mapping[str, int | None]) -> NoReturn:
    """Raise the sentence for a repository without config.json, by what it holds instead."""
    if any(name.endswith(".gguf") for name in files):
        said = "It holds GGUF files, which llama.cpp reads: name the repository of the original checkpoint."
    elif "adapter_config.json" in files:
        said = "It is an adapter: name the repository of the model it belongs to."
    elif "params.json" in files or "model_index.json" in files:
        said = "Its weights have a format of their own: name the repository in Transformers format."
    else:
        said = "Name a repository that holds a whole model in Transformers format."
    ask.fail(f"The repository {ask.model_id} has no config.json.", "no_config", said)


def explain(ask: Asking, error: Exception, revision: str | None = None, name: str | None = None) -> NoReturn:
    """Raise the sentence for *error*: what happened, to which model, what to do."""
    from huggingface_hub import errors

    model, where = ask.model_id, f"The hub at {ask.endpoint}"
    page = f"{ask.endpoint}/{model}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    reply = getattr(getattr(error, "response", None), "headers", None) or {}
    if isinstance(error, errors.HFValidationError):
        ask.fail(
            f"{model!r} is not the name of a model.", "missing", "It is ORGANISATION/NAME, as on the hub."
        )
    if isinstance(error, errors.GatedRepoError):
        if ask.variable is None:
            hint = f"Accept its licence at {page}, make a read token there and set HF_TOKEN."
        else:
            hint = (
                f"The account of the token in {ask.variable} has no access: accept the licence at {page} with that "
                "account and wait until it is granted."
            )
        ask.fail(
            f"{model} is gated: its files open only to accounts that accepted its licence.", "gated", hint
        )
    if isinstance(error, errors.DisabledRepoError):
        ask.fail(f"{where} has disabled {model}.", "missing", "Choose another model.")
    if status == 401 and ask.variable and "RepoNotFound" not in str(reply.get("X-Error-Code", "")):
        ask.fail(
            f"{where} does not accept the token in {ask.variable}.",
            "token",
            f"Make a new read token at {ask.endpoint}/settings/tokens, or unset {ask.variable} for public models.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "Check the spelling (ORGANISATION/NAME)."
        hint += (
            " A private model needs HF_TOKEN of an account that may see it."
            if ask.variable is None
            else f" If it is private, the account of the token in {ask.variable} may not see it."
        )
        ask.fail(f"{where} shows no model {model}.", "missing", hint)
    if isinstance(error, errors.RevisionNotFoundError):
        ask.fail(
            f"{model} has no revision {revision!r}.", "revision", "Name a branch, a tag or a commit of it."
        )
    if isinstance(error, errors.EntryNotFoundError):
        ask.fail(
            f"{model} has no {name} at {str(revision)[:7]}.",
            "no_config",
            "Name a repository that holds a whole model in Transformers format.",
        )
    if status is not None:
        _refused(ask, int(status), name)
    if type(error).__name__ == "OfflineModeIsEnabled":
        ask.fail(
            f"{where} is not asked: HF_HUB_OFFLINE is set.",
            "network",
            f"Unset it to look up {model}. {_OFFLINE}",
        )
    reason = " ".join(scrub(str(error), (ask.token,) if ask.token else ()).split()) or type(error).__name__
    ask.fail(
        f"{where} does not answer for {model}: {reason[:160]}.",
        "network",
        f"Check the network and proxy, or the setting watch.hub_url. {_OFFLINE}",
    )


def _refused(ask: Asking, status: int, name: str | None) -> NoReturn:
    what = f"{name} of {ask.model_id}" if name else ask.model_id
    said = f"The hub at {ask.endpoint} answered {status} for {what}."
    if status == 429:
        hint = "It limits requests: ask again in some minutes" + (
            "." if ask.token else ", or set HF_TOKEN, which raises the limit."
        )
    elif status in (401, 403):
        hint = "A private or gated model needs HF_TOKEN of an account with access."
    elif status >= 500:
        hint = "It is in trouble: ask again later."
    else:
        hint = "Look at the model on the hub."
    ask.fail(said, "token" if status in (401, 403) else "refused", hint)
