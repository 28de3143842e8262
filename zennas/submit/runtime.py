"""The rules that need running: it loads, a batch as the checker's gives finite embeddings, and it keeps the time."""

# B images, D embedding size

import numpy as np

from zennas.checker import BROKEN, KEPT, NORMALISATIONS, NOT_JUDGED, NOTED, Rule, flat, with_dynamic_batch
from zennas.export.onnx_file import open_session
from zennas.latency.budget import JudgedLatency, LocalBudget, judged
from zennas.latency.protocol import Measurement, measure_calmly
from zennas.provenance import versions
from zennas.records import UserError, first_line
from zennas.track import Protocol

CHECKED_BATCH = 32  # of InsightFace's checker
IMAGE_SEED = 0


def run_rules(
    onnx_bytes: bytes, *, batch: int, image: tuple[int, int, int], normalise: str, max_embedding_size: int | None = None
) -> list[Rule]:
    """The Rules of one run on `batch` copies of one random image; the rest is not judged where it fails.

    A fixed batch is rewritten first, as the checker does. image: (channels, height, width).
    normalise: a name of checker.NORMALISATIONS.
    """
    runtime = next((f"{name} {what}" for name, what in versions().items() if name.startswith("onnxruntime")), "")
    try:
        session = open_session(with_dynamic_batch(onnx_bytes) if batch > 1 else onnx_bytes)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated types
        return [_broken("loads", f"not in {runtime}", "loads", f"ONNX Runtime cannot load it: {first_line(error)}")]
    rules = [Rule(name="loads", measured=f"in {runtime}", limit="loads", verdict=KEPT)]
    name, limit = f"batch of {batch}", f"runs, {batch} x embedding"
    try:
        answers = session.run(None, {session.get_inputs()[0].name: _images(batch, image, normalise)})
    except Exception as error:  # noqa: BLE001 - the same
        why = f"{batch} images in one batch do not run: {first_line(error)}"
        return [*rules, _broken(name, "does not run", limit, why)]
    answer = np.asarray(answers[0])
    shape, answer_BD = " x ".join(map(str, answer.shape)), flat(answer)
    if answer_BD.ndim != 2 or len(answer_BD) != batch:
        remark = (
            f"{batch} images must give {batch} embeddings, in an output of two axes; given {shape or 'one number'}: "
            "do the nodes follow the batch?"
        )
        return [*rules, _broken(name, shape or "one number", limit, remark)]
    rules.append(Rule(name=name, measured=shape, limit=limit, verdict=KEPT))
    # The checker looks at the sum, which is no number as soon as one of them is none, or they are too large together.
    with np.errstate(all="ignore"):
        total = answer_BD.sum()
    if np.isfinite(total):
        rules.append(Rule(name="finite", measured="all numbers", limit="no NaN, no infinity", verdict=KEPT))
    else:
        bad = int((~np.isfinite(answer_BD)).sum())
        remark = f"{bad} of {answer_BD.size} outputs are no finite numbers, or their sum is none"
        rules.append(_broken("finite", f"{bad} are not", "no NaN, no infinity", remark))
    other_BD = np.asarray(
        session.run(None, {session.get_inputs()[0].name: _images(batch, image, normalise, seed=1)})[0]
    )
    if np.array_equal(answer_BD[0], other_BD[0]):
        remark = (
            "two random images have the same embedding: the checker does not look, but such a network recognises nobody"
        )
        rules.append(
            Rule(name="two images", measured="equal embeddings", limit="different ones", verdict=NOTED, said=remark)
        )
    size, name = answer_BD.shape[1], "embedding, when run"
    limit = f"<= {max_embedding_size}" if max_embedding_size else "none known"
    if max_embedding_size and size > max_embedding_size:
        remark = f"the embedding may have {max_embedding_size} numbers; a run gives {size}"
        return [*rules, _broken(name, str(size), limit, remark)]
    return [*rules, Rule(name=name, measured=str(size), limit=limit, verdict=KEPT)]


def time_rule(
    onnx_bytes: bytes, protocol: Protocol, budget: LocalBudget, *, of_the_challenge: bool
) -> tuple[Rule, JudgedLatency | None]:
    """(Rule, what was measured) of one forward pass by a track's Protocol against a LocalBudget.

    of_the_challenge: False where its clock stands for a whole system, of which this is a part:
    then the time is only noted.
    """
    name = _name_of_time(of_the_challenge)
    try:
        measurement = measure_calmly(with_dynamic_batch(onnx_bytes), protocol)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated types
        remark = f"one image does not run: {first_line(error)}"
        return _broken(name, "does not run", f"<= {budget.budget_ms:.2f} ms", remark), None
    return time_verdict(measurement, budget, of_the_challenge=of_the_challenge), judged(measurement, budget)


def time_verdict(measurement: Measurement, budget: LocalBudget, *, of_the_challenge: bool) -> Rule:
    """The Rule that a Measurement keeps or breaks beside a LocalBudget; not judged where another kind of device stood
    in, for which of two networks is faster may differ between kinds. A noisy one is judged, and its sentence says that
    it is noisy.
    """
    ms, protocol = measurement.measured_ms, measurement.protocol
    within = ms <= budget.budget_ms
    verdict = (KEPT if within else BROKEN) if of_the_challenge else NOTED
    if of_the_challenge and budget.stand_in:
        verdict = NOT_JUDGED
    parts = [f"{ms:.2f} ms, {'within' if within else 'over'} the budget of {budget.budget_ms:.2f} ms: {budget.origin}"]
    parts += [text for text in (budget.stand_in, measurement.warning) if text]
    if measurement.warning and verdict in (KEPT, BROKEN):
        parts.append("the verdict may be chance: measure again when the machine is quiet")
    how = f"{protocol.kth_fastest} of {protocol.num_runs}{', stand-in' if budget.stand_in else ''}"
    return Rule(
        name=_name_of_time(of_the_challenge),
        measured=f"{ms:.2f} ms ({how})",
        limit=f"<= {budget.budget_ms:.2f} ms",
        verdict=verdict,
        said="; ".join(parts),
    )


def unopened_rule() -> Rule:
    """The Rule in place of a run, of a file that has weights outside: where to look for them is a stranger's word, and
    even where they are found here, the challenge would not find them."""
    remark = "weights lie outside the file, and ONNX Runtime is not let near them: neither run nor timed"
    return Rule(name="loads", measured="not opened", limit="loads", verdict=NOT_JUDGED, said=remark)


def untimed_rule(why: str) -> Rule:
    """The Rule of a time that was not taken."""
    return Rule(name="time", measured="not taken", limit="the track's", verdict=NOT_JUDGED, said=why)


def _name_of_time(of_the_challenge):
    return "time" if of_the_challenge else "time of the network alone"


def _images(batch, image, normalise, *, seed=IMAGE_SEED):
    """The same random image again and again, normalised as the checker would."""
    pixels_CHW = np.random.default_rng(seed).integers(0, 256, image)
    mean, std = NORMALISATIONS[normalise]
    return np.repeat(((pixels_CHW - mean) / std).astype(np.float32)[None], batch, axis=0)


def _broken(name, measured, limit, remark):
    return Rule(name=name, measured=measured, limit=limit, verdict=BROKEN, said=remark)
