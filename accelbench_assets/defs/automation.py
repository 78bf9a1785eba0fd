"""Automation conditions, and the scars behind them.

Belongs here: every condition used by an asset, named, with the reason it is not simply ``eager()``.
Does not belong here: conditions on ``raw_samples_*``; there is none, for automation must never spend accelerator
money.

* ``eager()`` contains ``~any_deps_missing()``: downstream of a growing partition set one cell that never ran would
  silence every mart for ever, so marts and what follows drop that clause.
* ``eager()`` latches (``since_last_handled``); a hand-written ``any_deps_updated() & ~in_progress()`` loses the update
  that lands while its own run still counts as in progress.
* The event of a failed blocking check stays, and plain ``eager()`` on the child fires at the next tick anyway.
"""

import dagster as dg

PER_RUN = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
DOWNSTREAM = (
    dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
)
FACT = dg.AutomationCondition.on_missing() | dg.AutomationCondition.code_version_changed()

automation_sensor = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    # Stopped is Dagster's default; then nothing downstream would ever follow by itself.
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Everything downstream of the samples follows by itself; samples never start by themselves.",
)
