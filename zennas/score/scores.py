"""SCORES names every score of this room; `score_batch` is what a worker runs."""

import statistics
import time
import zlib
from typing import NamedTuple

import torch

from zennas.score.baselines import num_convolutions, reference_zen, total_macs, total_params
from zennas.score.zen import plain_layers, zen
from zennas.track import lookup

# (network or candidate, image_px, batch, generator) -> float; raises, never a sentinel. The generator's device is the score's.
SCORES = {
    "zen": zen,
    "zen_reference": reference_zen,
    "params": total_params,
    "macs": total_macs,
    "convolutions": num_convolutions,
}


class Scored(NamedTuple):
    """One candidate's score, or the stage and the error that it failed with."""

    value: float | None
    std: float  # over the repeats; 0 with one repeat
    seconds: float
    stage: str | None = None
    error: str | None = None


def score_candidate(candidate, plan, *, seed, repeats=None, device="cpu"):
    """The mean score of a candidate over `repeats` (default: plan.repeats) under a ScorePlan. Raises what the score raises.

    The random numbers depend on `seed` and the candidate alone: any worker of the same kind, in any order, gives the same score.
    """
    function = lookup(SCORES, plan.name, "score")
    # 32 bits, because PyTorch's generator on the processor ignores all above them.
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {candidate.text}".encode()))
    values = [function(candidate, plan.image_px, plan.batch, generator) for _ in range(repeats or plan.repeats)]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def score_batch(candidates, plan, *, seed, repeats=None, device="cpu"):
    """[Scored] for each candidate, in order: a failure is a value, and the batch goes on."""
    results = []
    for candidate in candidates:
        start, stage = time.perf_counter(), "build"
        try:
            plain_layers(candidate)
            stage = "score"
            value, std = score_candidate(candidate, plan, seed=seed, repeats=repeats, device=device)
        except Exception as error:  # noqa: BLE001 - a new block or score may raise anything; the batch goes on
            first_line = next(iter(str(error).strip().splitlines()), "")
            results.append(
                Scored(None, 0.0, time.perf_counter() - start, stage, f"{type(error).__name__}: {first_line}")
            )
        else:
            results.append(Scored(value, std, time.perf_counter() - start))
    return results
