"""Shadow prices of capacity: what input tokens, output tokens and requests each take of it, from several workloads.

Belongs here: the non-negative fit over mixes and the split it gives. Does not belong here: which steps are the mixes
(view ``reporting_points``), splits by convention (``cost``). The mart ``mix_regression`` is the same fit in SQL; a test
holds both together.

A mix served at capacity uses all of it: ``alpha X_in + beta X_out + gamma X = 1`` with its own rates, which is
``1 / X = alpha N_in + beta N_out + gamma``. Least squares of these relative residuals, so that a workload of short
requests weighs as much as one of long ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accelbench_assets.pricing.cost import SECONDS_PER_HOUR, TOKENS

MIN_MIXES = 4
MAX_RESIDUAL = 0.1
MIN_DETERMINANT = 1e-5
"""Of the three columns at length 1: below it the mixes cannot tell input, output and requests apart."""


class Mix(NamedTuple):
    """One workload at its reporting point, per second."""

    requests: float
    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class MixFit:
    """Seconds of capacity per input token, output token and request; null, with the reason, where refused.

    ``r2`` is that of 1/X (null when all mixes have the same), ``worst_residual`` the largest share of the capacity by
    which a mix misses 1.
    """

    mixes: int
    input_token_s: float | None = None
    output_token_s: float | None = None
    request_s: float | None = None
    r2: float | None = None
    worst_residual: float | None = None
    missing_reason: str | None = None

    def capacity_share(self, mix: Mix) -> float:
        """How much of the capacity *mix* takes by the fit; ``ValueError`` where it was refused."""
        if self.input_token_s is None or self.output_token_s is None or self.request_s is None:
            raise ValueError(f"there is no fit: {self.missing_reason}")
        return (
            self.input_token_s * mix.input_tokens
            + self.output_token_s * mix.output_tokens
            + self.request_s * mix.requests
        )


class RegressionSplit(NamedTuple):
    """USD per 10^6 input and output tokens, and USD per request on top."""

    input: float
    output: float
    request: float


def regression_split(usd_per_hour: float, fit: MixFit) -> RegressionSplit:
    """``c_in = 1e6 P alpha / 3600``, ``c_out = 1e6 P beta / 3600``, ``P gamma / 3600`` a request.

    Over a mix's own rates they return the hour's price times the fit's ``capacity_share`` of it.
    """
    if not usd_per_hour > 0:
        raise ValueError(f"usd_per_hour: {usd_per_hour!r} is not a positive price")
    if fit.input_token_s is None or fit.output_token_s is None or fit.request_s is None:
        raise ValueError(f"there is no fit: {fit.missing_reason}")
    per_second = usd_per_hour / SECONDS_PER_HOUR
    return RegressionSplit(
        TOKENS * per_second * fit.input_token_s,
        TOKENS * per_second * fit.output_token_s,
        per_second * fit.request_s,
    )


def fit_mixes(mixes: Sequence[Mix]) -> MixFit:
    """The fit over *mixes*, or why there is none: fewer than four, too alike, or a residual over 10 %.

    Raises ``ValueError`` for a rate that is not positive.
    """
    import numpy as np

    if any(not min(mix) > 0 for mix in mixes):
        raise ValueError("every mix needs requests, input and output tokens")
    count = len(mixes)
    if count < MIN_MIXES:
        return MixFit(
            count,
            missing_reason=f"{count} of the {MIN_MIXES} workloads that a fit needs were measured to their limit",
        )
    rates = np.array([(m.input_tokens, m.output_tokens, m.requests) for m in mixes], float)
    lengths = np.sqrt((rates**2).sum(axis=0))
    scaled = rates / lengths
    if np.linalg.det(scaled.T @ scaled) <= MIN_DETERMINANT:
        return MixFit(
            count, missing_reason="the workloads are too alike to tell input, output and requests apart"
        )
    best: tuple[float, np.ndarray] | None = None
    for size in (3, 2, 1):  # the best of all is inside, else on a face: every face is tried
        for chosen in itertools.combinations(range(3), size):
            found = np.zeros(3)
            found[list(chosen)] = np.linalg.lstsq(scaled[:, chosen], np.ones(count), rcond=None)[0]
            rest = float(((scaled @ found - 1) ** 2).sum())
            if found.min() >= 0 and (best is None or rest < best[0]):
                best = rest, found
        if best is not None and size == 3:
            break
    assert best is not None  # one column alone has a positive coefficient
    alpha, beta, gamma = (best[1] / lengths).tolist()
    residuals = scaled @ best[1] - 1
    inverse = 1 / rates[:, 2]
    spread = float(((inverse - inverse.mean()) ** 2).sum())
    alike = spread <= 1e-12 * count * float(inverse.mean()) ** 2
    r2 = None if alike else 1 - float(((residuals * inverse) ** 2).sum()) / spread
    worst = float(abs(residuals).max())
    if worst > MAX_RESIDUAL:
        return MixFit(
            count, r2=r2, worst_residual=worst, missing_reason="the worst residual of the fit is over 10 %"
        )
    return MixFit(count, alpha, beta, gamma, r2, worst)
