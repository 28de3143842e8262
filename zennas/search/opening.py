"""How a run begins, here or elsewhere: what it may not be, whose island it is, what is known of it already, its
resources.
"""

import json
import time

from zennas.latency.budget import choose_protocol
from zennas.latency.table import LatencyTable
from zennas.provenance import machine_name, num_cores
from zennas.records import UserError
from zennas.run_folder import lock_folder
from zennas.search.budgets import check_possible, other_budgets
from zennas.search.forecast import say_how_long
from zennas.search.ledger import open_ledger
from zennas.search.measured import Measured
from zennas.search.prepare import fill_table, measure_baselines, settle_budget
from zennas.search.storage import is_shared, shown
from zennas.search.store import Store
from zennas.search.workers import Workers
from zennas.space.parts import Part

ASK_S = 1.0  # between two looks at whether the first island is done with what is done once for all


def open_run(run):
    """The protocol, the limits and the ledger of a Run; with --address its workers, with --storage its store and
    island, too.
    """
    options = run.options
    if options.address is not None:  # what is measured, and how, is a matter of the device's machine
        connect(run)
        run.protocol, run.stand_in = run.workers.on_device(choose_protocol, run.track, options.backend)
    else:
        run.protocol, run.stand_in = choose_protocol(run.track, options.backend)
    most = run.track.limits.max_embedding_size
    if most is not None and run.space.embedding_size > most:
        raise UserError(
            f"space {run.space.name} has embeddings of {run.space.embedding_size} numbers; "
            f"track {run.track.name} allows at most {most}"
        )
    # The table of a device that the cluster has is measured, or known by an island that was there before; see
    # `prepare`.
    run.elsewhere = [name for name in run.plan.devices if run.workers is not None and run.workers.has_device(name)]
    run.others = other_budgets(run.track, run.plan, run.space, later=run.elsewhere)
    check_possible(run.others, run.space)
    settings, kept, table = options.settings(run.protocol, elsewhere=run.elsewhere), None, options.table
    if options.storage is not None:
        if options.num_islands == 1:  # else the folder is that of the island, which is not known yet
            run.lock = lock_folder(run.out)
        run.store = _store(run, options.storage)
        run.island = run.store.take_island()
        if options.num_islands > 1:
            run.out, table = options.out / f"island-{run.island}", table or str(options.out / "scored.parquet")
        kept = _kept(run)
        if options.fresh and kept.get("run"):
            raise UserError(
                f"--fresh: the store holds the study '{options.out.name}', and no study is ever deleted here; choose "
                f"another "
                "--out (its name is the study's), or delete it yourself with: optuna delete-study"
            )
    if note := where_it_is(options):
        run.progress.say(f"   note  {note}", style="yellow")
    run.lock = run.lock or lock_folder(run.out)
    run.ledger = open_ledger(
        run.out,
        settings,
        resume=options.resume,
        fresh=options.fresh,
        seed=run.plan.seed,
        table=table,
        island=run.island,
        kept=kept,
    )
    if options.storage is None and (kept_in := run.ledger.state.get("storage")):
        raise UserError(f"{run.out}: this run's study is in {kept_in}, and no --storage is given; give the same again")
    run.progress.log_to(run.out / "search.log")
    if run.store is not None:
        run.ledger.state["storage"] = shown(options.storage)
        run.ledger.keep_in(run.store)
        run.store.begin(run.ledger.run_id)


def announce(run):
    """A few lines that say what will be done."""
    plan, track = run.plan, run.track
    done = f"; {len(run.ledger.rows)} scored and {len(run.ledger.measured)} measured before" if run.ledger.rows else ""
    machine = run.workers.machine if run.workers else machine_name()
    until = f"{plan.candidates} candidates" if plan.candidates else f"about {plan.minutes:g} minutes in all"
    for name, text in (
        ("track", f"{track.name}: {track.title}"),
        (
            "space",
            f"{run.space.name}: block {run.space.block}, {len(run.space.genes)} genes, "
            f"at most {run.space.limits.max_blocks} blocks",
        ),
        (
            "device",
            f"{machine}, backend {run.protocol.backend}, {run.protocol.threads} thread(s), batch {run.protocol.batch}",
        ),
        ("metric", f"of the track, after training: {track.metric}"),
        ("rule", f"value {run.protocol.kth_fastest} of {run.protocol.num_runs} runs, sorted"),
        ("work", f"{_workers_text(run)}, {until}, seed {plan.seed}, out {run.out}{done}"),
    ):
        run.progress.say(f"{name:>7}  {text}")
    for limit in run.others:
        run.progress.say(f"{'limit':>7}  {limit.text}")
    if run.stand_in:
        run.progress.say(f"   note  {run.stand_in}", style="yellow")


def _workers_text(run):
    """The scorers in words: their number here, or in the cluster."""
    num = run.workers.num_workers if run.workers else run.options.num_workers or num_cores()
    islands = f"island {run.island} of {run.options.num_islands}, " if run.options.num_islands > 1 else ""
    return f"{islands}{num} worker(s)" + (f" of the cluster at {run.options.address}" if run.options.address else "")


def finished_before(run):
    """The winners of an earlier run of the same command that left nothing to do, which is said; None where there is
    something.
    """
    state = run.ledger.state
    if not state["finished"]:
        return None
    more = run.num_asked > int(run.ledger.own_N.sum()) if run.plan.candidates else run.plan.minutes > state["minutes"]
    try:
        values = json.loads((run.out / "winners.json").read_text(encoding="utf-8"))
        winners = [Measured.parse(entry, run.out / "winners.json") for entry in values]
    except (OSError, ValueError):
        winners = None
    # A driver elsewhere may have ended it, or gone on: the files here are then of nothing, or of other winners.
    if more or winners is None or run.ledger.newer:
        state["finished"] = False
        return None
    run.progress.say(
        "this run is finished: its winners are below; more --minutes or --candidates go on, --fresh begins anew"
    )
    return winners


def start(run):
    """The resources that a run needs to go on: its store and its workers, where it has none yet."""
    if run.store is None:
        with run.timed("opening the study"):
            run.store = _store(run, f"sqlite:///{run.out / 'study.db'}")
            run.store.take_island()
            run.store.begin(run.ledger.run_id)
    run.store.write_note(f"Search on {run.track.title}: under way.")
    with run.timed("starting Ray"):
        if run.workers is None:
            connect(run)
        run.workers.warm_up()
        run.machine = run.workers.machine


def connect(run):
    options = run.options
    run.workers = Workers(
        options.num_workers,
        address=options.address,
        device=options.device,
        plan=run.plan,
        say=lambda text: run.progress.say(f"warning: {text}", style="yellow"),
    )


def prepare(run):
    """Budget, latency table and measured baselines: from the store where another driver was there before, else measured
    now.

    Of several islands the first that lives measures, and the others wait for it.
    """
    setup = _setup(run)
    run.table = _table(run, run.machine, setup)
    if setup and setup["budget"] != run.ledger.state["budget"]:
        run.ledger.save(budget=setup["budget"])
    run.settle_budget()
    for values in run.store.kept_under("measured:").values():
        entry = Measured.parse(values, "the store")
        if entry.key not in run.ledger.measured:
            run.ledger.take_measured(entry.changed(onnx=None))
    say_how_long(run)
    fill_table(run.table, run.space, run.workers, run.progress, num_runs=run.plan.table_runs)
    run.check_possible(slack=1.2)  # the table is not corrected yet
    tables = {}
    for name in run.elsewhere:
        tables[name] = _table(run, run.workers.machine_of(name), setup.get("elsewhere", {}).get(name, {}))
        fill_table(tables[name], run.space, run.workers, run.progress, num_runs=run.plan.table_runs, device=name)
    if tables:
        run.others = other_budgets(run.track, run.plan, run.space, tables=tables)
        check_possible(run.others, run.space)
        for limit in run.others:
            if limit.is_measured:
                run.progress.say(f"{'limit':>7}  {limit.text}")
    measure_baselines(run)
    if not setup and run.options.storage is not None:
        elsewhere = {name: {"machine": table.machine, "table": _rows(table)} for name, table in tables.items()}
        setup = {"budget": run.ledger.state["budget"], "machine": run.machine, "table": _rows(run.table)}
        run.store.keep("setup", setup | {"elsewhere": elsewhere})


def _setup(run):
    """What the first driver measured for all; {} for the one that is to do it, now."""
    told = False
    while (setup := run.store.kept("setup")) is None:
        if run.store.leads():
            return run.store.kept("setup") or {}  # its last leader may just have been done with it
        if not told:
            run.progress.say("waiting for the first island, which measures the latency table and the baselines for all")
            told = True
        time.sleep(ASK_S)
    return setup


def _table(run, machine, setup):
    """A LatencyTable of a machine, with the rows that every island has, whatever this machine keeps."""
    if setup and setup["machine"] != machine:
        raise UserError(
            f"the study's latencies are those of {setup['machine']}, and the machine that measures now is {machine}: "
            f"what they "
            "measure cannot be compared; go on there, or give --address of a cluster whose latency device is one of "
            "that kind"
        )
    table = LatencyTable(run.protocol, machine=machine)
    for part, ms in setup.get("table", ()):
        table.rows[Part(*part)] = ms
    return table


def _rows(table):
    return [[list(part), ms] for part, ms in table.rows.items()]


def budget_of(run):
    """The LocalBudget's values, measured where this run has none."""
    options = run.options
    budget = settle_budget(
        run.track,
        run.protocol,
        run.stand_in,
        run.workers,
        run.progress,
        budget_ms=options.budget_ms,
        detector=options.detector,
    )
    return budget.model_dump()


def where_it_is(options):
    """What a user should know about the places that a run writes to; None where all is well."""
    if options.storage is None or options.table is not None or not is_shared(options.storage):
        return None
    return (
        f"the table of scored candidates is a folder of this machine ({options.out}); a driver elsewhere goes on "
        f"from what "
        "the store has (the elites, all that was measured); give --table URL, which every driver reaches, to share "
        "all of it"
    )


def _store(run, storage):
    return Store(
        run.space,
        storage,
        run.options.out.name,
        label=run.plan.score.label,
        num_islands=run.options.num_islands,
        say=lambda text: run.progress.say(text, style="yellow"),
    )


def _kept(run):
    """{name: value} that the store kept of this run; where another island begins it at this moment, once that is
    done."""
    while True:
        kept = run.store.kept_under("")
        if kept.get("run"):
            return kept
        if run.store.leads():
            return run.store.kept_under("")  # its last leader may just have begun it
        time.sleep(ASK_S)
