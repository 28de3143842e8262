"""Begins or resumes a run; refuses one that does not match."""

import dataclasses
import json
import time

from zennas.latency.budget import choose_protocol
from zennas.latency.inputs import NOISE, given_images, hold_images, images_of
from zennas.progress import Progress
from zennas.provenance import machine_name, num_cores
from zennas.records import UserError
from zennas.run_folder import kept_run
from zennas.search.clock import Clock
from zennas.search.cost_limits import check_limits, cost_limits
from zennas.search.ledger import open_ledger
from zennas.search.measured import Measured
from zennas.search.resources import Resources
from zennas.search.stages import Checked, Opened, onwards
from zennas.search.storage import is_shared, shown
from zennas.search.store import Store
from zennas.search.workers import Workers
from zennas.space.shape import sides
from zennas.track import check_output, load_space

ASK_S = 1.0  # between two looks at whether another island has begun the run


def open_search(checked: Checked, resources: Resources, progress: Progress) -> Opened:
    """The run that is asked for: a new one, or the one that its folder or its store holds.

    With --address the workers are connected here, with --storage the store is opened and an island taken: what the run
    is depends on them.
    """
    begun = time.monotonic()
    track, space, plan, workers, store = checked.track, checked.space, checked.plan, None, None
    if checked.address is None:
        protocol, stand_in = choose_protocol(track, checked.backend, images=checked.images, batch=checked.batch)
    else:  # what is measured, and how, is a matter of the device's machine
        workers = resources.hold_workers(connect(checked, progress))
        protocol, stand_in = workers.on_device(choose_protocol, track, checked.backend, batch=checked.batch)
        if checked.images is not None:  # they lie here, and the device's machine is to see them
            protocol = protocol.model_copy(update={"input": given_images(checked.images)})
            workers.on_device(hold_images, protocol.input, images_of(protocol.input))
    check_output(track, space)
    # The table of a device that the cluster has is measured, or known by an island that began before; see prepare.py.
    devices = tuple(name for name in plan.devices if workers is not None and workers.has_device(name))
    limits = cost_limits(track, plan, space, later=devices)
    check_limits(limits, space)
    folder, island, kept, table = checked.out, 0, None, checked.table
    if checked.storage is not None:
        if checked.num_islands == 1:  # else the folder is that of the island, which is not known yet
            resources.lock(folder)
        store = resources.hold_store(open_store(checked, checked.storage, progress))
        island = store.take_island()
        if checked.num_islands > 1:
            folder, table = checked.out / f"island-{island}", table or str(checked.out / "scored.parquet")
        kept = _kept(store)
        if checked.fresh and kept.get("run"):
            raise UserError(
                f"--fresh: the store holds the study '{checked.out.name}', and no study is ever deleted here; choose "
                "another --out (its name is the study's), or delete it yourself with: optuna delete-study"
            )
    if note := note_on_places(checked):
        progress.say(f"   note  {note}", style="yellow")
    resources.lock(folder)
    before = None if checked.fresh else _settings_before(folder, kept)
    if before is not None and before.get("protocol", {}).get("input", NOISE) == NOISE:
        checked, protocol = _seeing_noise(checked), _with_noise(protocol)
    if before is not None and "bands" not in before:
        checked = _without_bands(checked, before)
    ledger = open_ledger(
        folder,
        checked.settings(protocol, devices=devices),
        resume=checked.resume,
        fresh=checked.fresh,
        seed=plan.seed,
        table=table,
        island=island,
        kept=kept,
    )
    resources.hold_ledger(ledger)
    if checked.storage is None and (kept_in := ledger.state.get("storage")):
        raise UserError(f"{folder}: this run's study is in {kept_in}, and no --storage is given; give the same again")
    progress.log_to(folder / "search.log")
    if store is not None:
        ledger.note_storage(shown(checked.storage))
        ledger.keep_in(store)
        store.begin(ledger.run_id)
    minutes = plan.minutes if plan.candidates is None else None
    return onwards(
        checked,
        Opened,
        folder=folder,
        island=island,
        protocol=protocol,
        stand_in=stand_in,
        devices=devices,
        first_limits=tuple(limits),
        ledger=ledger,
        clock=resources.hold_clock(Clock(ledger, begun=begun, minutes=minutes)),
        store=store,
        workers=workers,
        resources=resources,
        progress=progress,
    )


def _settings_before(folder, kept):
    """The settings of the run that is there; None where there is none. Of one that an older version began they lack
    what it did not know: the input of its protocol (its times are of noise), the bands of its winners.
    """
    if kept and kept.get("run"):
        return kept["run"]["settings"]
    return kept_run(folder, what="settings")["settings"] if (folder / "run.json").is_file() else None


def _seeing_noise(checked):
    """What was asked for, with the track's input as older versions had it: noise."""
    if checked.images is not None:
        raise UserError(
            f"--images {checked.images}: this run's latencies are of noise, and others cannot be compared with them; "
            "choose another --out"
        )
    track = checked.track.model_copy(update={"protocol": _with_noise(checked.track.protocol)})
    return dataclasses.replace(checked, track=track)


def _without_bands(checked, before):
    """What was asked for, with the winners of older versions: they differ by a distance, and equal_cost orders them."""
    evidence = checked.plan.evidence
    if evidence.rank_by is None:
        evidence = evidence.model_copy(update={"rank_by": before.get("evidence", {}).get("rank_by")})
    plan = checked.plan.model_copy(update={"bands": None, "evidence": evidence})
    return dataclasses.replace(checked, plan=plan)


def _with_noise(protocol):
    return protocol.model_copy(update={"input": NOISE})


def announce(opened: Opened) -> None:
    """A few lines that say what will be done."""
    plan, track, space, protocol = opened.plan, opened.track, opened.space, opened.protocol
    ledger, machine = opened.ledger, opened.workers.machine if opened.workers else machine_name()
    done = f"; {len(ledger.rows)} scored and {len(ledger.measured)} measured before" if ledger.rows else ""
    minutes = f"about {plan.minutes:g} minute{'s' * (plan.minutes != 1)} in all"
    until = f"{plan.candidates} candidates" if plan.candidates else minutes
    for name, text in (
        ("track", f"{track.name}: {track.title}"),
        (
            "space",
            f"{space.name}: block {space.block}, {len(space.genes)} genes, at most {space.limits.max_blocks} blocks",
        ),
        ("device", f"{machine}, backend {protocol.backend}, {protocol.threads} thread(s), batch {protocol.batch}"),
        ("metric", f"of the track, after training: {track.metric}"),
        ("rule", f"value {protocol.kth_fastest} of {protocol.num_runs} runs, sorted; input: {protocol.input}"),
        ("work", f"{_workers_text(opened)}, {until}, seed {plan.seed}, out {opened.folder}{done}"),
    ):
        opened.progress.say(f"{name:>7}  {text}")
    for limit in opened.first_limits:
        opened.progress.say(f"{'limit':>7}  {limit.text}")
    for note in filter(None, (opened.stand_in, _other_images(opened))):
        opened.progress.say(f"   note  {note}", style="yellow")


def _other_images(opened):
    """A sentence where --space takes images of another outline than the experiment's own."""
    own, space = load_space(opened.experiment.space).shape, opened.space
    if own.height * space.shape.width == own.width * space.shape.height:
        return None
    return (
        f"space {space.name} takes images of {sides(space.shape.hw)}, the experiment's own, {opened.experiment.space}, "
        f"of {sides(own.hw)}: is it one for the same images?"
    )


def _workers_text(opened):
    """The scorers in words: their number here, or in the cluster."""
    num = opened.workers.num_workers if opened.workers else opened.num_workers or num_cores()
    islands = f"island {opened.island} of {opened.num_islands}, " if opened.num_islands > 1 else ""
    return f"{islands}{num} worker(s)" + (f" of the cluster at {opened.address}" if opened.address else "")


def finished_before(opened: Opened) -> list[Measured] | None:
    """The winners of an earlier run of the same command that left nothing to do; None where there is something to do.

    Where nothing is left, the run says so.
    """
    plan, ledger, path = opened.plan, opened.ledger, opened.folder / "winners.json"
    if not ledger.state["finished"]:
        return None
    if plan.candidates:
        more = opened.num_asked > int(ledger.own_N.sum())
    else:
        more = plan.minutes > ledger.state["minutes"]
    try:
        winners = [Measured.parse(values, path) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        winners = None
    # A driver elsewhere may have ended it, or gone on: the files here are then of nothing, or of other winners.
    if more or winners is None or ledger.newer:
        return None
    opened.progress.say(
        "this run is finished: its winners are below; more --minutes or --candidates go on, --fresh begins anew"
    )
    return winners


def connect(checked: Checked, progress: Progress) -> Workers:
    """The Workers of a run, on a Ray of its own or on the cluster at --address."""
    return Workers(
        checked.num_workers,
        address=checked.address,
        device=checked.device,
        plan=checked.plan,
        say=lambda text: progress.say(f"warning: {text}", style="yellow"),
    )


def open_store(checked: Checked, storage: str, progress: Progress) -> Store:
    """The Store of a run's study."""
    return Store(
        checked.space,
        storage,
        checked.out.name,
        label=checked.plan.score.label,
        num_islands=checked.num_islands,
        say=lambda text: progress.say(text, style="yellow"),
    )


def note_on_places(checked: Checked) -> str | None:
    """What a user should know about the places that a run writes to; None where all is well."""
    if checked.storage is None or checked.table is not None or not is_shared(checked.storage):
        return None
    return (
        f"the table of scored candidates is a folder of this machine ({checked.out}); a driver elsewhere goes on "
        "from what the store has (the elites, all that was measured); give --table URL, which every driver reaches, "
        "to share all of it"
    )


def _kept(store):
    """{name: value} that the store keeps of this run; where another island is about to begin it, once that is done."""
    while True:
        kept = store.kept_under("")
        if kept.get("run"):
            return kept
        if store.leads():
            return store.kept_under("")  # its last leader may just have begun it
        time.sleep(ASK_S)
