"""From what was scored to what is handed on: choosing finalists, measuring them whole, writing the winners down."""

import contextlib
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import yaml

from zennas.export.onnx_file import Proof
from zennas.latency.backends import takes_network
from zennas.latency.budget import export_candidate, judged, kept_network, timed_network
from zennas.latency.protocol import UNLIKELY_PCT, Measurement, measure_calmly
from zennas.provenance import provenance
from zennas.records import UserError
from zennas.run_folder import cache_folder, write_atomically
from zennas.search.measured import Measured
from zennas.search.scored import Row, Rows
from zennas.search.stages import Prepared
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.space import distances
from zennas.tasks.table import task_of

# How much more a network says about the table's error near the budget than one at half of it or twice.
NEARNESS = 3.0
# From the budget, so that a few runs say enough: of a baseline, on either side; of a finalist, above it.
FAR_PCT, CLEARLY_PCT = 15.0, 8.0


def correction(timed: Iterable[tuple[float, float]], budget_ms: float) -> float:
    """The factor by which the table's sums are multiplied, from networks measured whole.

    timed: (measured ms, ms by the table) of each; those near the budget count most.

    >>> correction([(101.0, 100.0)], 100.0)
    1.01
    """
    weighted = total = 0.0
    for measured_ms, table_ms in timed:
        weight = math.exp(-NEARNESS * abs(math.log(measured_ms / budget_ms)))
        weighted += weight * math.log(measured_ms / table_ms)
        total += weight
    return round(math.exp(weighted / total), 4) if total else 1.0


def measured_correction(entries: Iterable[Measured], budget_ms: float) -> float:
    """The correction from networks of the ledger, on the run's own device."""
    return correction(((entry.latency.measured_ms, entry.latency.table_ms) for entry in entries), budget_ms)


def diverse_best(
    rows: Rows, taken: list[Candidate], *, num: int, min_distance: float, fits_N: np.ndarray | None = None
) -> list[Row]:
    """The best `num` of some Rows, by score, that fit and differ enough from every candidate in `taken`."""
    far_N = np.ones(len(rows), bool) if fits_N is None else fits_N.copy()
    for other in taken:
        far_N &= distances(rows.genes_NG, np.array(other.genes)) >= min_distance
    return [rows[int(at)] for at in rows.ranked(far_N)[:num]]


def metadata(candidate: Candidate, made_by: dict) -> dict[str, str]:
    """What an exported file says about itself."""
    return {"zennas": json.dumps(made_by), "candidate": candidate.text, "trained": "no"}


class Exported(NamedTuple):
    """A candidate's file, written and proven."""

    path: pathlib.Path
    proof: Proof
    problems: tuple[str, ...]  # what the track's checker would refuse in it
    megabytes: float


def export_all(prepared: Prepared, paths: dict[Candidate, pathlib.Path]) -> dict[Candidate, Exported | Exception]:
    """Each candidate's Exported, or the exception that says why there is none: written to these paths side by side."""
    made_by, task = prepared.ledger.state["made_by"], prepared.experiment.task
    calls = [
        (candidate, prepared.space.shape, prepared.protocol, metadata(candidate, made_by), prepared.track, task, path)
        for candidate, path in paths.items()
    ]
    return dict(zip(paths, prepared.workers.at_once(_exported, calls), strict=True))


def kept_baseline(prepared: Prepared, candidate: Candidate) -> Measurement | None:
    """The Measurement of a baseline, of all runs or of a few, that an earlier run of this machine kept."""
    shape, machine = prepared.space.shape, prepared.machine
    return kept_network(candidate, prepared.protocol, shape, machine=machine, few=True)


def kept_export(prepared: Prepared, candidate: Candidate, path: pathlib.Path) -> Exported | None:
    """The Exported that an earlier run of this machine had of the same candidate, but for the file, which is not at
    `path`; None where there was none, or anything that decides what is in the file has changed since.
    """
    try:
        kept = json.loads(_kept_export(prepared, candidate).read_text(encoding="utf-8"))
        return Exported(path, Proof(**kept["proof"]), tuple(kept["problems"]), kept["megabytes"])
    except (OSError, ValueError, TypeError, KeyError):  # it is made again
        return None


def keep_export(prepared: Prepared, candidate: Candidate, exported: Exported) -> None:
    """Write down what `kept_export` finds. Where nothing can be kept, the next run exports again."""
    path, plain = _kept_export(prepared, candidate), exported._asdict() | {"proof": exported.proof.model_dump()}
    del plain["path"]
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(plain))


def _kept_export(prepared, candidate):
    made_by = prepared.ledger.state["made_by"]
    decides = {
        "candidate": candidate.text,
        "shape": prepared.space.shape.text,
        "protocol": [prepared.protocol.precision, prepared.protocol.input],
        "checker": [prepared.experiment.task, prepared.track.limits.model_dump()],
        "versions": [made_by["zennas"], made_by["versions"]],
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder("exports") / f"{digest[:24]}.json"


def _exported(candidate, shape, protocol, metadata, track, task, path):
    exported = export_candidate(candidate, shape, protocol, metadata=metadata)
    write_atomically(path, exported.onnx_bytes)
    problems = task_of(task).problems(track, exported.onnx_bytes)
    return Exported(path, exported.proof, tuple(problems), exported.megabytes)


def measure_whole(
    prepared: Prepared,
    candidate: Candidate,
    *,
    role: str,
    name: str,
    score: tuple[float, float],
    exported: Exported,
    kept: Measurement | None = None,
) -> Measured:
    """Measure an exported candidate whole, from its file.

    `score` is (mean, std). The prediction is the table's, corrected for a finalist as far as it was corrected by then,
    and uncorrected for a baseline, by which it is corrected. Of one far from the budget a few runs are taken.
    kept: its Measurement on the run's own device, taken before.
    """
    space, made_by, predictor = prepared.space, prepared.ledger.state["made_by"], prepared.predictor
    spent = cost(candidate, space.shape)
    table_ms = predictor.table_ms(candidate)
    if exported.problems and role != "baseline":
        raise RuntimeError(f"the track's checker would refuse it: {'; '.join(exported.problems)}")
    # A baseline is what shows how far off the table is: nothing is expected of it.
    measured = functools.partial(_measured, prepared, candidate, exported.path, is_expected=role == "finalist")
    predicted_ms, by_device = table_ms * predictor.factor_of(candidate), {}
    measurement = kept or measured(predicted_ms, prepared.budget.budget_ms)
    for limit in predictor.limits:
        if limit.is_measured:
            predicted = _predicted(limit, candidate, space)
            on_device = measured(predicted["predicted_ms"], limit.most, device=limit.device)
            by_device[limit.device] = _on_device(on_device, predicted, limit)
    values = {
        "role": role,
        "name": name,
        "key": candidate.key,
        "candidate": candidate.plain(),
        "score_mean": round(score[0], 4),
        "score_std": round(score[1], 4),
        "score": prepared.plan.score.model_dump(),
        "params": spent.params,
        "macs": spent.macs,
        "num_blocks": candidate.num_blocks,
        "megabytes": round(exported.megabytes, 2),
        "latency": {
            **judged(measurement, prepared.budget).model_dump(mode="json"),
            "predicted_ms": round(predicted_ms, 4),
            "table_ms": round(table_ms, 4),
        },
        "elsewhere": by_device,
        "export": exported.proof.model_dump() | {"checker": exported.problems},
        "onnx": exported.path.name,
        "verdict": None,
        "made_by": made_by,
    }
    return Measured.parse(values, f"{role} {name}")


def measure_finalist(
    prepared: Prepared, candidate: Candidate, *, score: tuple[float, float], exported: Exported | Exception
) -> Measured | Exception:
    """A finalist, measured whole; or the exception that says why there is none: exporters and runtimes raise whatever
    they like.

    Of one that is not measured to the end the file is removed. What is no fault of the candidate is raised: UserError,
    and what stops a run.
    """
    try:
        if isinstance(exported, Exception):
            raise exported
        return measure_whole(prepared, candidate, role="finalist", name=candidate.key, score=score, exported=exported)
    except BaseException as error:
        (prepared.folder / f"{candidate.key}.onnx").unlink(missing_ok=True)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        return error


def _measured(prepared, candidate, path, predicted_ms, budget_ms, *, is_expected, device=None):
    """The Measurement of a candidate's file, or of its network where the backend times those, on the run's own device
    or a further one.
    """
    protocol, expected_ms = prepared.protocol, predicted_ms if is_expected else None
    enough = functools.partial(is_far, budget_ms=budget_ms, expected_ms=expected_ms)
    attempts = 2 if is_expected else 1  # a baseline decides nothing, and its sixth fastest run stands much noise
    keeps = functools.partial(_keeps, budget_ms=budget_ms)
    how = {"expected_ms": expected_ms, "enough": enough, "decided": keeps, "attempts": attempts}
    measure = functools.partial(measure_calmly, **how)
    if takes_network(protocol.backend):
        network = timed_network(candidate, prepared.space.shape, protocol)
        return prepared.workers.on_device(measure, network, protocol, device=device)
    return prepared.workers.measure_file(measure, path, protocol, device=device)


def _keeps(measurement, *, budget_ms):
    """Whether a network keeps the budget: then it does so on a calmer machine too, for other work only adds time."""
    return measurement.measured_ms <= budget_ms


def is_far(few: Measurement, *, budget_ms: float, expected_ms: float | None) -> bool:
    """Whether the first runs of a network already say on which side of the budget it is.

    A baseline (nothing is expected of it) only shows where it stands. A finalist decides: it is out where it is clearly
    over, and no slower than a prediction can be off; else the machine may have been busy.
    """
    if expected_ms is None:
        return abs(math.log(few.measured_ms / budget_ms)) > math.log(1 + FAR_PCT / 100)
    is_over = few.measured_ms > budget_ms * (1 + CLEARLY_PCT / 100)
    return is_over and few.measured_ms <= expected_ms * (1 + UNLIKELY_PCT / 100)


def _on_device(measurement, predicted, limit):
    """A Measurement on a further device beside the run's budget there, as a DeviceLatency holds it."""
    return {
        "measured_ms": measurement.measured_ms,
        **predicted,
        "budget_ms": limit.most,
        "within_budget": measurement.measured_ms <= limit.most,
        "warning": measurement.warning,
        **measurement.model_dump(mode="json"),
    }


def _predicted(limit, candidate, space):
    """What the table of a further device predicts; None for a baseline of other blocks, which it lacks."""
    if candidate.kind != space.kind:
        return {"predicted_ms": None, "table_ms": None}
    predicted_ms = limit.of(candidate, space)
    return {"predicted_ms": round(predicted_ms, 4), "table_ms": round(predicted_ms / limit.factor, 4)}


def prediction_error(entries: Iterable[Measured]) -> dict:
    """{num, mean_abs_pct, max_abs_pct} of predicted against measured latency of whole networks.

    The two errors are None where there is no network.
    """
    errors = [abs(100 * (entry.latency.predicted_ms / entry.latency.measured_ms - 1)) for entry in entries]
    if not errors:
        return {"num": 0, "mean_abs_pct": None, "max_abs_pct": None}
    return {
        "num": len(errors),
        "mean_abs_pct": round(sum(errors) / len(errors), 2),
        "max_abs_pct": round(max(errors), 2),
    }


def write_winners(folder: str | pathlib.Path, winners: list[Measured], *, seed: int) -> None:
    """Write winners.json, and a YAML for each winner: the candidate, under comments that say where it is from."""
    folder = pathlib.Path(folder)
    made_by = provenance(seed=seed)
    for entry in winners:
        latency = entry.latency
        lines = [
            f"{entry.name} of {made_by.command} (zennas {made_by.zennas}, seed {seed}, {made_by.machine}, "
            f"{made_by.date})",
            f"{entry.score.label} {entry.score_mean} (untrained; not an accuracy), "
            f"{latency.measured_ms} ms of {latency.budget_ms} ms",
        ]
        if entry.band is not None:
            below = f", {entry.gap_text} below the proven optimum of the band" if entry.gap is not None else ""
            lines.append(f"the best of band {entry.band}{below}")
        lines += [latency.stand_in] if latency.stand_in else []
        header = "".join(f"# {line}\n" for line in lines)
        body = yaml.safe_dump(entry.candidate.plain(), sort_keys=False, default_flow_style=None)
        write_atomically(folder / f"{entry.name}.yaml", header + body)
    write_atomically(folder / "winners.json", json.dumps([entry.plain() for entry in winners], indent=2) + "\n")
