"""What a search needs before it can begin: a budget in this machine's milliseconds, the latency table, the baselines."""

from zennas.latency.budget import keep_reference, kept_reference, local_budget, measure_detector, measure_network
from zennas.latency.table import LatencyTable, measure_part, parts_of, parts_of_space
from zennas.provenance import machine_name
from zennas.records import UserError
from zennas.search.winners import measured_entry


def settle_budget(track, protocol, stand_in, workers, progress, *, budget_ms=None, detector=None):
    """The LocalBudget of a run; the track's reference network is measured where this machine has not kept it."""
    if budget_ms is not None:
        return local_budget(track, None, stand_in, budget_ms=budget_ms)
    machine = workers.on_device(machine_name)
    reference = kept_reference(track, protocol, machine=machine)
    if reference is None:
        progress.begin(f"measuring the reference network {track.budget.reference.candidate.text}")
        progress.update({})
        reference = workers.on_device(measure_network, track.budget.reference.candidate, protocol)
        progress.end()
        keep_reference(track, reference)
        progress.say(f"reference {reference.measured_ms:.2f} ms measured, and kept for this machine")
        if reference.warning:
            progress.say(f"warning: {reference.warning}; delete the kept reference to measure it again", style="yellow")
    detector_ms = None
    if detector is not None:
        measurement = workers.on_device(
            measure_detector, str(detector), protocol, input_px=track.budget.detector_input_px
        )
        detector_ms = measurement.measured_ms
        progress.say(f"detector {detector}: {detector_ms:.2f} ms")
    return local_budget(track, reference, stand_in, detector_ms=detector_ms)


def ready_table(space, protocol, workers, progress, *, num_runs):
    """The LatencyTable that predicts every candidate and baseline of the space; what is missing is measured and kept."""
    table = LatencyTable(protocol, machine=workers.on_device(machine_name))
    missing = missing_parts(space, table)
    if missing:
        progress.begin("measuring the latency table, once for this machine")
        table.ensure(
            missing,
            num_runs=num_runs,
            progress=progress.counting("blocks"),
            measure_one=lambda part, protocol, num_runs: workers.on_device(
                measure_part, part, protocol, num_runs=num_runs
            ),
        )
        progress.end()
        progress.say(f"latency table: {len(missing)} block measurements kept in {table.path}")
    return table


def missing_parts(space, table):
    """The parts that the table lacks to predict every candidate and baseline of the space."""
    parts = parts_of_space(space)
    for baseline in space.baselines.values():
        if baseline.block != space.block:  # another block's: its own parts, measured just as they are
            parts += parts_of(baseline, image_px=space.image_px, embedding_size=space.embedding_size)
    return table.missing(dict.fromkeys(parts))


def measure_baselines(run):
    """Measure whole and score every baseline of the space that the ledger does not have yet."""
    todo = {name: one for name, one in run.space.baselines.items() if run.ledger.measured.get(one.key) is None}
    if not todo:
        return
    run.progress.begin("measuring the baselines whole")
    count = run.progress.counting("networks")
    for index, (name, candidate) in enumerate(todo.items()):
        (scored,) = run.workers.results(
            run.workers.submit([candidate], run.plan.score, seed=run.plan.seed, repeats=run.plan.score.final_repeats)
        )
        if scored.error is not None:
            raise UserError(f"baseline {name} ({candidate.text}) cannot be scored: {scored.error}")
        path = run.out / "baseline.onnx"
        entry = measured_entry(run, candidate, role="baseline", name=name, score=(scored.value, scored.std), path=path)
        path.unlink()
        entry["onnx"] = None  # half a gigabyte each, and a line of Python makes them again
        run.ledger.add_measured(entry)
        count(index + 1, len(todo))
    run.progress.end()
