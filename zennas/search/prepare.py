"""What a search needs before it can begin: a budget in this machine's milliseconds, the latency table, the
baselines."""

from zennas.latency.budget import local_budget, measure_detector, read_bytes, reference_here
from zennas.latency.table import measure_part
from zennas.records import UserError, first_line
from zennas.search.winners import measure_whole


def settle_budget(track, protocol, stand_in, workers, progress, *, budget_ms=None, detector=None):
    """The LocalBudget of a run; the track's reference network is measured where this machine has not kept it."""
    if detector is not None and (budget_ms is not None or not track.budget.detection_ms):
        why = "--budget-ms says all of it" if budget_ms is not None else f"{track.name} times no detection"
        raise UserError(f"--detector {detector}: would not change the budget: {why}; leave it out")
    if budget_ms is not None:
        return local_budget(track, None, stand_in, budget_ms=budget_ms)
    reference = reference_here(track, protocol, progress, on_device=workers.on_device)
    detector_ms = None
    if detector is not None:
        measurement = workers.on_device(
            measure_detector,
            str(detector),
            protocol,
            input_px=track.budget.detector_input_px,
            onnx_bytes=read_bytes(detector),  # the machine that measures has not got the file
        )
        detector_ms = measurement.measured_ms
        progress.say(f"detector {detector}: {detector_ms:.2f} ms")
    return local_budget(track, reference, stand_in, detector_ms=detector_ms)


def fill_table(table, space, workers, progress, *, num_runs, device=None):
    """Measure and keep what a LatencyTable lacks to predict every candidate and baseline of the space.

    device: the name of a further latency device, in place of the run's own.
    """
    missing = table.missing_for(space)
    if missing:
        of_whom = "this machine" if device is None else f"device {device}"
        progress.begin(f"measuring the latency table, once for {of_whom}")
        table.ensure(
            missing,
            num_runs=num_runs,
            progress=progress.counting("blocks"),
            measure_one=lambda part, protocol, num_runs: workers.on_device(
                measure_part, part, protocol, num_runs=num_runs, device=device
            ),
        )
        progress.end()
        progress.say(f"latency table: {len(missing)} block measurements kept in {table.path}")


def measure_baselines(run):
    """Measure whole and score every baseline of the space that the ledger does not have yet."""
    todo = {name: one for name, one in run.space.baselines.items() if run.ledger.measured.get(one.key) is None}
    if not todo:
        return
    run.progress.begin("measuring the baselines whole")
    count = run.progress.counting("networks")
    for index, (name, candidate) in enumerate(todo.items()):
        handle = run.workers.submit(
            [candidate], run.plan.score, seed=run.plan.seed, repeats=run.plan.score.final_repeats
        )
        (scored,) = run.workers.results(handle, 1)
        if scored.error is not None:
            raise UserError(f"baseline {name} ({candidate.text}) cannot be scored: {scored.error}")
        path = run.out / "baseline.onnx"
        try:
            entry = measure_whole(
                run, candidate, role="baseline", name=name, score=(scored.value, scored.std), path=path
            )
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - exporters and runtimes raise whatever they like
            raise UserError(
                f"baseline {name} ({candidate.text}) cannot be measured: {type(error).__name__}: {first_line(error)}; "
                f"take it out of space {run.space.name}'s baselines to search without it"
            ) from None
        finally:
            path.unlink(missing_ok=True)
        entry = entry.changed(onnx=None)  # half a gigabyte each, and a line of Python makes them again
        run.ledger.add_measured(entry)
        if entry.latency.warning:
            run.progress.say(f"warning: {name}: {entry.latency.warning}", style="yellow")
        count(index + 1, len(todo))
    run.progress.end()
