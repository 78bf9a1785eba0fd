"""Encoded request bodies: a template for each combination of model, answer length and schema, and a prompt
put into it.

Belongs here: turning a ``Prompt`` into bytes for the plan's API. Does not belong here: what it says
(``contents``), the fields of a body (``prompts``).
"""

from __future__ import annotations

import json
from typing import Any

from loadgen import templates
from loadgen.contents import Prompt
from loadgen.corpus import escaped
from loadgen.plan import Plan
from loadgen.prompts import BodyTemplate, body_fields
from loadgen.workloads import Workload

_KEPT = 4096


class Bodies:
    """Bodies of one plan and workload."""

    def __init__(self, plan: Plan, workload: Workload) -> None:
        self._plan, self._workload = plan, workload
        self._templates: dict[tuple[str, int, int | None, bool], BodyTemplate] = {}

    def of(self, prompt: Prompt, model: str, max_tokens: int) -> bytes:
        """The body that asks *model* for at most *max_tokens* (exactly so many where the profile says so)."""
        listed = prompt.messages is not None and self._plan.api == "chat"
        key = model, max_tokens, prompt.schema, listed
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _KEPT:
                self._templates.clear()
            template = self._templates[key] = self._template(*key)
        if listed:
            return template.fill(encoded(prompt.messages))
        return template.fill(prompt.text if prompt.plain else escaped(prompt.text))

    def _template(self, model: str, max_tokens: int, schema: int | None, listed: bool) -> BodyTemplate:
        fields = body_fields(
            self._plan.api,
            model,
            max_tokens=max_tokens,
            ignore_eos=self._workload.ignore_eos,
            stream=self._plan.stream,
            sampling=self._workload.sampling,
            response_format=None if schema is None else templates.response_format(schema),
            messages=listed,
        )
        return BodyTemplate.of(fields)


def encoded(messages: Any) -> bytes:
    """A list of messages as compact JSON."""
    return json.dumps(messages, separators=(",", ":"), ensure_ascii=False).encode()
