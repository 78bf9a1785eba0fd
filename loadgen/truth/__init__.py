"""The ground-truth server: speaks the OpenAI API, has no model, and logs what it really did.

Belongs here: answers on an absolute schedule, faults on purpose, a log by ``x-request-id`` to hold a
client's figures against.
Does not belong here: anything a benchmark result may rest on: every response says ``x-accelbench-origin:
simulated``.
"""

from __future__ import annotations
