"""How much of a roofline an engine reaches: priors with their ranges and sources, before anything was measured.

Belongs here: the constants, one range a quantity, and which of them apply to an accelerator.
Does not belong here: the roofline (``roofline``), what measured runs make of the priors (``calibrate``).

The ranges are the methodology's (section 5.5). They were not fitted to any published figure; twelve published rows that
were named beforehand judge them (``tests/sizing/holdout.csv``). Efficiencies are of engine steps. What a whole run
loses beside (ramp and drain, scheduling, sampling, padding) only ever slows, so it is a factor of at most 1. Its lower
end is set by use, not by data: an interval wider than 4 to 1 chooses nothing, the efficiencies take about 2 of it, and
the rest goes to these losses.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDEST = 4.0
"""Upper end over lower end of an estimate; a wider one is cut at its slow end."""


@dataclass(frozen=True, slots=True)
class Range:
    """A quantity known as least, middle and most. ``runs`` measured runs stand behind it; 0 = a prior."""

    low: float
    middle: float
    high: float
    runs: int = 0

    def __post_init__(self) -> None:
        if not self.low <= self.middle <= self.high:
            raise ValueError(f"not in order: {self}")


@dataclass(frozen=True, slots=True)
class Priors:
    """What is believed of an engine on an accelerator at a precision.

    ``mfu`` share of peak FLOPS in prefill, ``mbu`` share of peak bandwidth in decode, ``host_s`` seconds a step waits
    for the host, ``kept`` share of the steps' rate that a whole run keeps.
    """

    mfu: Range
    mbu: Range
    host_s: Range
    kept: Range
    source: str

    @property
    def runs(self) -> int:
        """Measured runs behind these figures."""
        return max(self.mfu.runs, self.mbu.runs, self.host_s.runs, self.kept.runs)


METHODOLOGY = "methodology 5.5, 2026-11-21"
KEPT = Range(0.5, 0.5**0.5, 1.0)
HOST_S = Range(0.0002, 0.0004472, 0.001)  # with captured graphs; the middle is the geometric one

NVIDIA = Priors(Range(0.30, 0.45, 0.60), Range(0.50, 0.65, 0.80), HOST_S, KEPT, METHODOLOGY)
# Of Neuron the methodology only has the middles; the ranges are as wide, in proportion, as NVIDIA's.
NEURON = Priors(
    Range(0.30 * 0.30 / 0.45, 0.30, 0.30 * 0.60 / 0.45),
    Range(0.50 * 0.50 / 0.65, 0.50, 0.50 * 0.80 / 0.65),
    HOST_S,
    KEPT,
    f"{METHODOLOGY}; ranges in NVIDIA's proportions",
)

BY_KIND = {"gpu": NVIDIA, "neuron": NEURON}

LATENCY_BASE_S = 6.6e-6
LATENCY_HOP_S = {"nvlink": 0.6e-6, "pcie": 1.0e-6}
"""Of one all-reduce over a ring: a base, and a hop for each of its 2 (TP - 1) moves. These are the constants by which
NCCL chooses its algorithm (protocol LL; as printed in PyTorch's ``_inductor/comm_analysis.py``)."""


def priors_of(kind: str) -> Priors:
    """The priors of an accelerator kind, ``gpu`` or ``neuron``."""
    return BY_KIND[kind]
