"""``accelbench demo``: the whole job on this machine.

Belongs here: the demo's choice of cell and workload.
Does not belong here: anything a run does differently: it is one (``launching``).
"""

from __future__ import annotations

from typing import Annotated

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.run import checked_price, reproduce_command
from accelbench_assets.cli.state import home
from accelbench_assets.cli.target import Flags, resolve
from accelbench_assets.cli.target_load import DEFAULT_WORKLOAD


def demo(
    engine: Annotated[
        str, typer.Option("--engine", help="llamacpp, or vllm (Python 3.11, large install).")
    ] = "llamacpp",
    usd_per_hour: Annotated[
        float | None,
        typer.Option("--usd-per-hour", help="Declared price of this machine, to see cost figures."),
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Serve a small real model with a real engine on this machine, measure it, publish the result, in two
    minutes.

    JSON is one object: run (the record), steps (each with its percentiles), slo, cost, paths.
    """
    format_ = chosen(fmt, as_json)
    from accelbench_assets.cli.launching import launch

    price = checked_price(usd_per_hour)
    flags = Flags(engine=engine, workload=DEFAULT_WORKLOAD, launcher="local", usd_per_hour=price)
    target = resolve(flags, home(), prepare=True)
    launch(target, command=reproduce_command(target), publish=True, fmt=format_)
