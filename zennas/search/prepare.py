"""What a search needs before it can begin: a budget in this machine's milliseconds, the latency table, the
baselines.
"""

import functools
import time

from zennas.latency.backends import device_of
from zennas.latency.budget import (
    LocalBudget,
    local_budget,
    measure_detector,
    read_bytes,
    reference_here,
)
from zennas.latency.protocol import ms_text
from zennas.latency.quiet import trouble
from zennas.latency.table import LatencyTable, measure_part
from zennas.records import UserError, first_line
from zennas.search.cost_limits import check_limits, cost_limits
from zennas.search.forecast import baselines_seconds, knows_the_machine, note_pace, say_how_long, table_seconds
from zennas.search.measured import Measured
from zennas.search.opening import connect, open_store
from zennas.search.predictor import Predictor
from zennas.search.stages import Opened, Prepared, onwards
from zennas.search.store import Store
from zennas.search.winners import export_all, keep_export, kept_baseline, kept_export, measure_whole
from zennas.search.workers import Workers
from zennas.space.parts import Part

PARTS_AHEAD = 4  # of the latency table that each worker is given at once
PARTS_TO_KNOW = 8  # of a table, by which the speed of a machine is known that has nothing measured
# Parts of a small network take longer alone than in it, together up to three times as long: by how much is known once
# the baselines are measured.
UNCORRECTED = 4.0
ASK_S = 1.0  # between two looks at whether the first island is done with what is done once for all


def prepare(opened: Opened, *, tells: bool = True) -> Prepared:
    """The run with its store and its workers, its budget, its latency table and its measured baselines.

    They come from the store where another driver was there before; else they are measured now. Of several islands the
    first that lives measures, and the others wait for it. tells: say how long a search will take.
    """
    store, workers = _start(opened)
    with opened.clock.timed("measuring"):
        machine = workers.machine
        setup = _setup(opened, store)
        table = _table(opened.protocol, machine, setup)
        if setup and setup["budget"] != opened.ledger.state["budget"]:
            opened.ledger.save(budget=setup["budget"])
        budget = _settle_budget(opened, store, workers)
        predictor = Predictor(
            opened.space, table, budget, margin_pct=opened.plan.margin_pct, limits=opened.first_limits
        )
        prepared = onwards(
            opened, Prepared, store=store, workers=workers, machine=machine, budget=budget, predictor=predictor
        )
        for values in store.kept_under("measured:").values():
            entry = Measured.parse(values, "the store")
            if entry.key not in opened.ledger.measured:
                opened.ledger.take_measured(entry.changed(onnx=None))
        if not knows_the_machine(prepared):
            _fill_table(prepared, table, most=PARTS_TO_KNOW)
        if tells:
            say_how_long(prepared)
        expected_s, begun = table_seconds(prepared) + baselines_seconds(prepared), time.monotonic()
        _fill_table(prepared, table)
        predictor.check(slack=UNCORRECTED)
        tables = _tables_of_devices(prepared, setup)
        measure_baselines(prepared)
        note_pace(prepared, expected_s, time.monotonic() - begun)
        if tells:
            say_how_long(prepared)
        if not setup and opened.storage is not None:
            of_devices = {name: {"machine": each.machine, "table": _rows(each)} for name, each in tables.items()}
            setup = {"budget": opened.ledger.state["budget"], "machine": machine, "table": _rows(table)}
            store.keep("setup", setup | {"elsewhere": of_devices})
    return prepared


def _start(opened):
    """(Store, Workers) of a run that goes on, opened and connected where that was not done before."""
    store, workers = opened.store, opened.workers
    if store is None:
        with opened.clock.timed("opening the study"):
            storage = f"sqlite:///{opened.folder / 'study.db'}"
            store = opened.resources.hold_store(open_store(opened, storage, opened.progress))
            store.take_island()
            store.begin(opened.ledger.run_id)
    store.write_note(f"Search on {opened.track.title}: under way.")
    with opened.clock.timed("starting Ray"):
        if workers is None:
            workers = opened.resources.hold_workers(connect(opened, opened.progress))
        workers.warm_up()
    return store, workers


def _setup(opened, store):
    """What the first driver measured for all; {} for the one that is to measure it now."""
    is_announced = False
    while (setup := store.kept("setup")) is None:
        if store.leads():
            return store.kept("setup") or {}  # its last leader may just have been done with it
        if not is_announced:
            opened.progress.say(
                "waiting for the first island, which measures the latency table and the baselines for all"
            )
            is_announced = True
        time.sleep(ASK_S)
    return setup


def _table(protocol, machine, setup):
    """A LatencyTable of a machine, with the rows that every island has, whatever this machine keeps."""
    if setup and setup["machine"] != machine:
        raise UserError(
            f"the study's latencies are those of {setup['machine']}, and the machine that measures now is {machine}: "
            "what they measure cannot be compared; go on there, or give --address of a cluster whose latency device "
            "is one of that kind"
        )
    table = LatencyTable(protocol, machine=machine)
    for part, ms in setup.get("table", ()):
        table.rows[Part(*part)] = ms
    return table


def _rows(table):
    return [[list(part), ms] for part, ms in table.rows.items()]


def _settle_budget(opened: Opened, store: Store, workers: Workers) -> LocalBudget:
    """The budget in milliseconds of the latency device: the one that the ledger has, else measured and kept there."""
    ledger = opened.ledger
    if ledger.state["budget"] is None:
        ledger.save(budget=measure_budget(opened, workers).model_dump())
    budget = LocalBudget.parse(ledger.state["budget"], opened.folder / "run.json")
    opened.progress.say(f" budget  {ms_text(budget.budget_ms)} here: {budget.origin}")
    made_by = ledger.state["made_by"]
    store.describe(
        {name: made_by[name] for name in ("command", "zennas", "machine", "date")}
        | {"track": opened.track.name, "space": opened.space.name, "seed": opened.plan.seed}
        | {"budget (ms)": budget.budget_ms, "stand-in": budget.stand_in or "no"}
    )
    return budget


def measure_budget(opened: Opened, workers: Workers) -> LocalBudget:
    """The track's budget on this machine; its reference network is measured where this machine has not kept it."""
    track, protocol, stand_in, detector = opened.track, opened.protocol, opened.stand_in, opened.detector
    if detector is not None and (opened.budget_ms is not None or not track.budget.detection_ms):
        why = "--budget-ms says all of it" if opened.budget_ms is not None else f"{track.name} times no detection"
        raise UserError(f"--detector {detector}: would not change the budget: {why}; leave it out")
    if opened.budget_ms is not None:
        return local_budget(track, None, stand_in, budget_ms=opened.budget_ms)
    reference = reference_here(track, protocol, opened.progress, on_device=workers.on_device)
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
        opened.progress.say(f"detector {detector}: {ms_text(detector_ms)}")
    return local_budget(track, reference, stand_in, detector_ms=detector_ms, batch=protocol.batch)


def _tables_of_devices(prepared, setup):
    """{name: filled LatencyTable} of the further devices that the cluster has; the limits there hold from now on."""
    tables, plan, space = {}, prepared.plan, prepared.space
    for name in prepared.devices:
        kept = setup.get("elsewhere", {}).get(name, {})
        tables[name] = _table(prepared.protocol, prepared.workers.machine_of(name), kept)
        _fill_table(prepared, tables[name], device=name)
    if tables:
        limits = cost_limits(prepared.track, plan, space, tables=tables)
        check_limits(limits, space)
        prepared.predictor.correct(1.0, limits)
        for limit in limits:
            if limit.is_measured:
                prepared.progress.say(f"{'limit':>7}  {limit.text}")
    return tables


def _fill_table(prepared, table, *, device=None, most=None):
    """Measure and keep what a LatencyTable lacks to predict every candidate and baseline of the space.

    device: the name of a further latency device, in place of the run's own. most: so many parts of it alone.
    """
    progress, done = prepared.progress, 0
    of_whom = "this machine" if device is None else f"device {device}"
    if most is None:
        rounds = table.rounds(table.parts_for(prepared.space))
    else:  # of all sizes, and none is doubted before those beside it are known
        missing = table.missing_for(prepared.space)
        rounds = filter(None, [missing[:: max(1, len(missing) // most)][:most]])
    for todo in rounds:
        if not done:
            progress.begin(f"measuring the latency table, once for {of_whom}")
            count = progress.counting("blocks")
        _measure_parts(prepared, table, todo, device, count, done)
        done += len(todo)
    if done:
        progress.end()
        progress.say(f"latency table: {done} block measurements kept in {table.path}")


def _measure_parts(prepared, table, todo, device, count, done):
    """Side by side, but for the timing, of which the locks see to it that nothing else is done. A GPU is given to one
    task alone, and another machine measures by itself. count(num, total) counts what was `done` before, too."""
    workers = prepared.workers
    on_processor = workers.local and device is None and device_of(table.protocol.backend) == "cpu"
    beside = on_processor and trouble() is None
    size = PARTS_AHEAD * workers.num_workers if beside else 1
    for begun in range(0, len(todo), size):
        parts, answers = todo[begun : begun + size], {}
        if beside:
            timed = functools.partial(measure_part, num_runs=prepared.plan.table_runs)
            calls = [(part, table.protocol) for part in parts]
            answers = dict(zip(parts, workers.at_once(timed, calls, measures=True), strict=True))

        def measured(part, protocol, num_runs, answers=answers):
            answer = answers.get(part) or workers.on_device(
                measure_part, part, protocol, num_runs=num_runs, device=device
            )
            if isinstance(answer, Exception):
                raise answer
            return answer

        # What was measured is kept before what was not is told.
        parts.sort(key=lambda part, answers=answers: isinstance(answers.get(part), Exception))
        table.measure(parts, num_runs=prepared.plan.table_runs, measure_one=measured)
        count(done + begun + len(parts), done + len(todo))


def measure_baselines(prepared: Prepared) -> None:
    """Measure whole and score every baseline of the space that the ledger does not have yet."""
    ledger, workers, progress, plan = prepared.ledger, prepared.workers, prepared.progress, prepared.plan
    baselines = prepared.baselines
    todo = {name: candidate for name, candidate in baselines.items() if candidate.key not in ledger.measured}
    if not todo:
        return
    progress.begin("exporting and scoring the baselines")
    progress.update({})
    how = {"shape": prepared.space.shape, "seed": plan.seed, "repeats": plan.score.final_repeats}
    handles = [workers.submit([candidate], plan.score, **how) for candidate in todo.values()]
    paths = {candidate: prepared.folder / f"{candidate.key}.onnx" for candidate in todo.values()}
    try:
        exports = _exports(prepared, paths)
        scores = [workers.results(handle, 1)[0] for handle in handles]
        progress.begin("measuring the baselines whole")
        count = progress.counting("networks")
        for index, ((name, candidate), scored) in enumerate(zip(todo.items(), scores, strict=True)):
            ledger.add_measured(_baseline(prepared, name, candidate, scored, exports[candidate]))
            count(index + 1, len(todo))
    finally:
        for path in paths.values():  # half a gigabyte each, and a line of Python makes them again
            path.unlink(missing_ok=True)
    progress.end()


def _exports(prepared, paths):
    """{candidate: Exported or exception} of baselines: made now, or what is kept of those that nothing measures."""
    kept = {}
    if not any(limit.is_measured for limit in prepared.predictor.limits):
        timed = [candidate for candidate in paths if kept_baseline(prepared, candidate) is not None]
        kept = {candidate: kept_export(prepared, candidate, paths[candidate]) for candidate in timed}
        kept = {candidate: exported for candidate, exported in kept.items() if exported is not None}
    made = export_all(prepared, {candidate: path for candidate, path in paths.items() if candidate not in kept})
    for candidate, exported in made.items():
        if not isinstance(exported, Exception):
            keep_export(prepared, candidate, exported)
    return kept | made


def _baseline(prepared, name, candidate, scored, exported):
    """A baseline, measured whole, or as this machine measured it before: the same correction in every run, so that the
    same seed proposes the same candidates.
    """
    if scored.error is not None:
        raise UserError(f"baseline {name} ({candidate.text}) cannot be scored: {scored.error}")
    kept, score = kept_baseline(prepared, candidate), (scored.value, scored.std)
    try:
        if isinstance(exported, Exception):
            raise exported
        how = {"role": "baseline", "name": name, "score": score, "exported": exported, "kept": kept}
        entry = measure_whole(prepared, candidate, **how)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - exporters and runtimes raise whatever they like
        raise UserError(
            f"baseline {name} ({candidate.text}) cannot be measured: {type(error).__name__}: {first_line(error)}; "
            f"take it out of space {prepared.space.name}'s baselines to search without it"
        ) from None
    if entry.latency.warning:
        before = f", measured {entry.latency.date[:10]}" if kept else ""
        prepared.progress.say(f"warning: {name}{before}: {entry.latency.warning}", style="yellow")
    return entry.changed(onnx=None)
