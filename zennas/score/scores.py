"""SCORES names every score of this room; `score_batch` is what a worker runs."""

import contextlib
import functools
import statistics
import time
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

from zennas.records import first_line
from zennas.score.aggregate import effectiveness, equal_cost, vkdnw
from zennas.score.baselines import num_convolutions, reference_zen, total_macs, total_params
from zennas.score.branches import MEAN, ONCE, Apart, WayScores
from zennas.score.limits import time_limit
from zennas.score.meanfield import mean_field
from zennas.score.modules import finite
from zennas.score.plain import plain_layers
from zennas.score.proxies import (
    az_expressivity,
    az_progressivity,
    az_trainability,
    meco,
    naswot,
    near,
    swap,
    synflow,
)
from zennas.score.together import zen_of_candidates
from zennas.score.zen import zen, zen_of_ways
from zennas.space.candidate import Candidate
from zennas.space.families.table import tree_of
from zennas.space.shape import Shape
from zennas.track import ScorePlan, lookup

# (network or candidate, shape, batch, generator) -> float; raises, never a sentinel. The generator's device is the
# score's; the shape's images are the random ones that the score looks at (a ScorePlan's).
SCORES = {
    "zen": zen,
    "zen_closed": mean_field,
    # of networks of several branches, the mean of the ways' scores (branches.py)
    "zen_mean": functools.partial(zen, aggregate=MEAN),
    "zen_mean_closed": functools.partial(mean_field, aggregate=MEAN),
    "zen_reference": reference_zen,
    "params": total_params,
    "macs": total_macs,
    "convolutions": num_convolutions,
    "effectiveness": effectiveness,
    "naswot": naswot,
    "swap": swap,
    "meco": meco,
    "near": near,
    "synflow": synflow,
    "az_expressivity": az_expressivity,
    "az_progressivity": az_progressivity,
    "az_trainability": az_trainability,
    "vkdnw": vkdnw,
    "equal_cost": equal_cost,
}

# Rows that count what a candidate has for its own Shape: no random images, and none of a plan's size.
COUNTED = ("params", "macs")

# Rows that score many candidates faster together: (candidates, shape, batch, generator) -> [float], not finite where
# one failed.
TOGETHER = {"zen": zen_of_candidates, "zen_mean": functools.partial(zen_of_candidates, aggregate=MEAN)}

# Rows that have a closed form, by which a search screens and proves: what it makes of the ways through a network.
CLOSED = {"zen": ONCE, "zen_mean": MEAN}


class Worth(NamedTuple):
    """What a score is worth, measured: Kendall's tau with the accuracy of trained networks; None where it was not."""

    overall: float | None  # of architectures of NAS-Bench-201 (CIFAR-10) that were not looked at while choosing
    equal_latency: float | None  # of those of about the same latency
    faces: float | None  # of small IR-SE networks of the same latency, trained for a short time on faces
    unseen: float | None = None  # of TransNAS-Bench macro, run by another hand on a table that we had not seen
    unseen_equal_macs: float | None = None  # of those of about the same multiply-accumulates


# From experiments/equal-latency: nb201.json and truth.json; the last two figures of a row were reported to us.
WORTH = {
    "zen": Worth(0.2450, 0.0928, -0.4334),
    "zen_reference": Worth(0.2334, 0.0893, -0.4228),
    "params": Worth(0.5612, 0.3231, 0.3256),
    "macs": Worth(0.5612, 0.3231, 0.2431),
    "convolutions": Worth(0.5010, 0.2067, -0.4514),
    "naswot": Worth(0.4943, 0.2034, -0.0127, 0.71, 0.51),
    "swap": Worth(0.5795, 0.4331, -0.0190),
    "meco": Worth(0.6656, 0.5354, -0.1226),
    "near": Worth(0.6411, 0.5029, -0.2304),
    "synflow": Worth(0.5731, 0.3726, -0.4313),
    "az_expressivity": Worth(0.5739, 0.4648, -0.4630),
    "az_progressivity": Worth(0.4943, 0.4303, 0.2748),
    "az_trainability": Worth(0.3501, 0.3123, -0.4778),
    "vkdnw": Worth(0.5943, 0.4683, -0.4461),
    "equal_cost": Worth(0.7853, 0.6855, -0.0275, 0.28, -0.26),
    "effectiveness": Worth(None, None, -0.4017),
    "zen_closed": Worth(None, None, -0.4334),
}
# All of those networks have one way, where the mean of the ways is the way.
WORTH |= {"zen_mean": WORTH["zen"], "zen_mean_closed": WORTH["zen_closed"]}


class Scored(NamedTuple):
    """One candidate's score, or the stage and the error that it failed with."""

    value: float | None
    std: float  # over the repeats; 0 with one repeat
    seconds: float
    stage: str | None = None
    error: str | None = None


def score_candidate(
    candidate: Candidate, plan: ScorePlan, shape: Shape, *, seed: int, repeats: int | None = None, device: str = "cpu"
) -> tuple[float, float]:
    """(mean, standard deviation) of a candidate's score over `repeats` (default: plan.repeats) under a ScorePlan.
    Raises what the score raises.

    shape: what the candidate's network is for; the score looks at images of the plan's size, but for COUNTED.

    The random numbers depend on `seed` alone, not on the candidate: what two candidates have in common, they score
    alike, and any worker of the same kind, in any order, gives the same score.
    """
    if plan.learned is not None:  # of the genes alone, and as sure as its line is
        return plan.learned.of_candidate(candidate)
    function = lookup(SCORES, plan.name, "score")
    seen = shape if plan.name in COUNTED else plan.shape(shape)
    values = [
        function(candidate, seen, plan.batch, _generator(seed, repeat, device))
        for repeat in range(repeats or plan.repeats)
    ]
    return _mean_and_std(values)


def way_scores(
    candidate: Candidate, plan: ScorePlan, shape: Shape, *, seed: int, repeats: int | None = None, device: str = "cpu"
) -> WayScores | None:
    """The WayScores of a candidate, on the random numbers of `score_candidate`; None where there is one way through its
    network, or where the plan's score is not made of ways. Raises what the score raises.
    """
    tree = tree_of(candidate)
    if plan.name not in CLOSED or tree.num_branches == 1:
        return None
    draws = [
        zen_of_ways(candidate, plan.shape(shape), plan.batch, _generator(seed, repeat, device))
        for repeat in range(repeats or plan.repeats)
    ]
    return WayScores.of(tree, Apart.mean(draws))


def score_batch(
    candidates: Sequence[Candidate],
    plan: ScorePlan,
    shape: Shape,
    *,
    seed: int,
    repeats: int | None = None,
    device: str = "cpu",
    limit_s: float | None = None,
    alone: bool = False,
) -> list[Scored]:
    """[Scored] for each candidate, in order: a failure is a value, and the batch goes on.

    limit_s: what one candidate, and all of them together, may take. alone: none is scored together with another.
    """
    options = {"seed": seed, "repeats": repeats, "device": device, "limit_s": limit_s}
    together = {} if alone else _scored_together(candidates, plan, shape, **options)
    return [
        together[candidate] if candidate in together else _scored(candidate, plan, shape, **options)
        for candidate in candidates
    ]


def _scored_together(candidates, plan, shape, *, seed, repeats, device, limit_s):
    """{candidate: Scored} of those that can be scored together, and were."""
    known, start = [], time.perf_counter()
    if len(candidates) < 2 or plan.name not in TOGETHER:
        return {}
    for candidate in dict.fromkeys(candidates):
        with contextlib.suppress(Exception):  # whatever ails it will be told of it alone
            if plain_layers(candidate, shape.channels) is not None:
                known.append(candidate)
    try:
        with time_limit(limit_s):
            values_RN = [
                TOGETHER[plan.name](known, plan.shape(shape), plan.batch, _generator(seed, repeat, device))
                for repeat in range(repeats or plan.repeats)
            ]
    except Exception:  # noqa: BLE001 - one of them, or all of them in the memory of one: each alone says which
        return {}
    seconds = (time.perf_counter() - start) / max(1, len(known))
    scored = {}
    for candidate, values in zip(known, zip(*values_RN, strict=True), strict=True):
        try:
            mean, std = _mean_and_std([finite(value, plan.label) for value in values])
            scored[candidate] = Scored(mean, std, seconds)
        except FloatingPointError as error:
            scored[candidate] = Scored(None, 0.0, seconds, "score", f"FloatingPointError: {error}")
    return scored


def _scored(candidate, plan, shape, *, seed, repeats, device, limit_s):
    start, stage = time.perf_counter(), "build"
    try:
        with time_limit(limit_s):
            plain_layers(candidate, shape.channels)
            stage = "score"
            value, std = score_candidate(candidate, plan, shape, seed=seed, repeats=repeats, device=device)
    except Exception as error:  # noqa: BLE001 - a new block or score may raise anything; the batch goes on
        text = f"{type(error).__name__}: {first_line(error)}"
        return Scored(None, 0.0, time.perf_counter() - start, stage, text)
    return Scored(value, std, time.perf_counter() - start)


def _generator(seed, repeat, device):
    # 32 bits, because PyTorch's generator on the processor ignores all above them.
    return torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {repeat}".encode()))


def _mean_and_std(values):
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
