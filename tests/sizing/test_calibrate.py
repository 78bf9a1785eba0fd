"""Posteriors from measured steps: they find what made the steps, count the runs, and stay put without any."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from accelbench_assets.sizing.calibrate import NOTHING_MEASURED, Observation, calibrate, posterior
from accelbench_assets.sizing.estimate import estimate
from accelbench_assets.sizing.priors import NVIDIA
from accelbench_assets.sizing.roofline import Efficiency, links_s, mixed_prefill_s, prefill_s, replica, step_s
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models

CHIPS = {row.accelerator.id: row.accelerator for row in load_instances().values()}
KINDS = {name: chip.kind for name, chip in CHIPS.items()}
TRUTH = Efficiency(mfu=0.36, mbu=0.74, host_s=0.0012, links=True)
KEPT = 0.85


def observed(
    number: int,
    slug: str = "llama-3.1-8b-instruct",
    *,
    at_once: float = 1,
    isl: float = 8192,
    osl: float = 256,
) -> Observation:
    """A step of an engine that has exactly TRUTH's efficiencies."""
    row = load_models()[slug]
    one = replica(row, weights_of(row), CHIPS["l40s"], 1)
    assert one is not None
    prefill, mixed = prefill_s(one, isl, TRUTH), mixed_prefill_s(one, isl, TRUTH)
    assert prefill is not None
    assert mixed is not None
    step = step_s(one, at_once, isl + osl / 2, TRUTH)
    return Observation(
        run_id=f"run-{number}",
        engine="vllm",
        accelerator="l40s",
        one=one,
        concurrency=at_once,
        isl=isl,
        osl=osl,
        ttft_s=prefill + step_s(one, 1, isl, TRUTH) if at_once == 1 else None,
        tpot_s=step if at_once == 1 else None,
        requests_per_s=KEPT / (mixed + osl * step / at_once),
    )


def steps(runs: int) -> Iterable[Observation]:
    for number in range(runs):
        yield observed(number, isl=8192)
        yield observed(number, isl=512)
        yield observed(number, "qwen2.5-7b-instruct", isl=1024)
        yield observed(number, "gpt-oss-20b", isl=1024)
        yield observed(number, isl=1024, at_once=32)
        yield observed(number, isl=1024, at_once=64)


def llama_only(runs: int) -> list[Observation]:
    return [one for one in steps(runs) if one.key[2] == "bf16"]


def test_nothing_measured_leaves_the_priors() -> None:
    assert NOTHING_MEASURED.priors(CHIPS["l40s"], "vllm", "bf16") is NVIDIA
    assert calibrate([], KINDS).priors(CHIPS["h100"], "vllm", "bf16").runs == 0


def test_measured_steps_move_the_priors_to_what_made_them() -> None:
    found = posterior(NVIDIA, llama_only(8))
    assert found.mfu.middle == pytest.approx(TRUTH.mfu, rel=0.05)
    assert found.mbu.middle == pytest.approx(TRUTH.mbu, rel=0.06)
    assert found.kept.middle == pytest.approx(KEPT, rel=0.08)
    assert found.mfu.runs == found.mbu.runs == found.kept.runs == found.runs == 8
    assert found.source == "8 measured runs over methodology 5.5, 2026-11-21"
    for narrow, wide in ((found.mfu, NVIDIA.mfu), (found.kept, NVIDIA.kept)):
        assert narrow.high / narrow.low < wide.high / wide.low


def test_more_runs_are_surer_and_one_run_moves_less() -> None:
    one, many = posterior(NVIDIA, llama_only(1)), posterior(NVIDIA, llama_only(20))
    assert abs(many.mfu.middle - TRUTH.mfu) < abs(one.mfu.middle - TRUTH.mfu) < abs(0.45 - TRUTH.mfu)
    assert many.mfu.high / many.mfu.low < one.mfu.high / one.mfu.low


def test_only_what_was_seen_is_calibrated() -> None:
    """Steps under load say nothing of MFU or MBU; other engines, chips and precisions keep their prior."""
    found = posterior(NVIDIA, [observed(1, at_once=32)])
    assert found.mfu is NVIDIA.mfu
    assert found.mbu is NVIDIA.mbu
    assert found.kept.runs == 1
    calibration = calibrate(llama_only(3), KINDS)
    assert calibration.priors(CHIPS["l40s"], "vllm", "bf16").runs == 3
    assert calibration.priors(CHIPS["l40s"], "sglang", "bf16") is NVIDIA
    assert calibration.priors(CHIPS["l40s"], "vllm", "fp8") is NVIDIA
    assert calibration.priors(CHIPS["h100"], "vllm", "bf16") is NVIDIA


def test_order_does_not_matter() -> None:
    seen = list(steps(4))
    forward, backward = calibrate(seen, KINDS), calibrate(seen[::-1], KINDS)
    assert dict(forward.posteriors) == dict(backward.posteriors)
    assert ("vllm", "l40s", "mxfp4") in forward.posteriors


def test_after_calibration_the_estimate_is_near_the_truth() -> None:
    """The methodology's target: within 25 % of another run of the same engine and chip."""
    row = load_models()["qwen3-8b"]  # not among those seen
    one = replica(row, weights_of(row), CHIPS["l40s"], 1)
    assert one is not None
    seen = [o for o in steps(8) if o.one.model.slug != "qwen3-8b"]
    believed = calibrate(seen, KINDS).priors(CHIPS["l40s"], "vllm", "bf16")
    found = estimate(one, believed, 48, 2048, 300)
    mixed = mixed_prefill_s(one, 2048, TRUTH)
    assert mixed is not None
    truth = KEPT / (mixed + 300 * step_s(one, 48, 2198, TRUTH) / 48)
    assert found.requests_per_s is not None
    assert found.requests_per_s.middle == pytest.approx(truth, rel=0.15)
    assert found.requests_per_s.holds(truth)
    before = estimate(one, NVIDIA, 48, 2048, 300).requests_per_s
    assert before is not None
    assert found.requests_per_s.ratio < before.ratio


def test_impossible_steps_do_not_break_it() -> None:
    """Faster than the links alone, or no figures at all: left out."""
    bare = replace(observed(1), ttft_s=1e-9, tpot_s=None, requests_per_s=None)
    found = posterior(NVIDIA, [bare])
    assert found.mfu is NVIDIA.mfu
    assert links_s(bare.one, 10) == 0.0
