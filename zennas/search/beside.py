"""What stands beside winners and baselines once they are known: what a mirror image costs, what each way scores."""

import functools

from zennas.latency.backends import takes_network
from zennas.latency.budget import keep_network, kept_network, measure_network
from zennas.latency.protocol import Measurement, measure_calmly
from zennas.score.scores import way_scores
from zennas.search.measured import Measured, MirroredLatency, score_seed
from zennas.search.stages import Searched
from zennas.space.families.table import tree_of

MIRRORED_RUNS = 12  # of two images each: a price beside the budget, which decides nothing


def with_what_is_beside(searched: Searched, entries: list[Measured]) -> list[Measured]:
    """The same winners and baselines, with what the track and the score say beside: measured and scored now, where the
    ledger does not have it from a run before."""
    entries = _with_ways(searched, entries)
    if not searched.track.mirrored:
        return entries
    todo = [entry for entry in entries if entry.mirrored is None]
    if todo:
        searched.progress.begin("measuring what a mirror image costs")
    count, priced = searched.progress.counting("networks"), {}
    for entry in todo:
        priced[entry.key] = entry.changed(mirrored=_mirrored(searched, entry))
        count(len(priced), len(todo))
    if todo:
        searched.progress.end()
    return [priced.get(entry.key, entry) for entry in entries]


def _with_ways(searched, entries):
    """The entries, those of several ways with the score of each."""
    todo = [entry for entry in entries if entry.ways is None and tree_of(entry.candidate).num_branches > 1]
    plan, shape = searched.plan.score, searched.space.shape
    seeds = [score_seed(searched.plan.seed, is_baseline=entry.is_baseline) for entry in todo]
    given = [(entry.candidate, plan, shape, seed) for entry, seed in zip(todo, seeds, strict=True)]
    answers = searched.workers.at_once(functools.partial(_way_scores, repeats=plan.final_repeats), given)
    for answer in answers:
        if isinstance(answer, Exception):  # the same networks were scored before
            raise answer
    ways = {entry.key: answer for entry, answer in zip(todo, answers, strict=True)}
    return [entry.changed(ways=ways[entry.key]) if ways.get(entry.key) else entry for entry in entries]


def _way_scores(candidate, plan, shape, seed, *, repeats):
    return way_scores(candidate, plan, shape, seed=seed, repeats=repeats)


def _mirrored(searched, entry):
    """The MirroredLatency of a network on the run's own device: that of a baseline may be kept there."""
    own = searched.protocol
    protocol = own.model_copy(update={"batch": 2 * own.batch}).with_runs(min(MIRRORED_RUNS, own.num_runs))
    candidate, shape, workers = entry.candidate, searched.space.shape, searched.workers
    path = searched.folder / entry.onnx if entry.onnx else None
    taken: Measurement | None = kept_network(candidate, protocol, shape, machine=searched.machine)
    if taken is None and path is not None and path.is_file() and not takes_network(protocol.backend):
        taken = workers.measure_file(measure_calmly, path, protocol)
    elif taken is None:  # the file of a baseline is not kept
        taken = workers.on_device(measure_network, candidate, protocol, shape)
        keep_network(candidate, taken, shape)
    return MirroredLatency(
        measured_ms=taken.measured_ms,
        spread_pct=round(taken.spread_pct, 2),
        times=round(taken.measured_ms / entry.latency.measured_ms, 3),
        **{name: getattr(taken, name) for name in ("raw_ms", "protocol", "machine", "date", "load_average")},
    )


def mirrored_sentence(entries: list[Measured]) -> str | None:
    """What a mirror image costs, in words; None where nothing of it was measured."""
    times = [entry.mirrored.times for entry in entries if entry.mirrored]
    if not times:
        return None
    span = f"{min(times):.2f}" if len(times) == 1 else f"{min(times):.2f} to {max(times):.2f}"
    return (
        f"an embedding of an image and its mirror image, both in one batch, takes {span} times as long as one image "
        f"alone, measured on {len(times)} network(s); the budget is for one image"
    )
