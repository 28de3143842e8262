"""The whole path of a search, from a track's name to winners on disk: read `search_to_the_end`."""

import pathlib

from zennas.progress import Progress, silent
from zennas.records import ProcessLostError, UserError
from zennas.run_folder import lasting, lasting_url
from zennas.score.learned import named_score
from zennas.score.scores import SCORES
from zennas.search.finals import hold_finals, take_from_islands
from zennas.search.loop import search
from zennas.search.measured import Measured
from zennas.search.opening import announce, finished_before, open_search
from zennas.search.options import Options
from zennas.search.outcome import publish
from zennas.search.prepare import prepare
from zennas.search.resources import Resources
from zennas.search.scored import checked_table
from zennas.search.stages import Checked, Opened, Searched, Settled
from zennas.search.storage import PATIENCE_S, asked_storage, shown, without_secret
from zennas.search.workers import MeasuringError
from zennas.space.learned import LEARNED
from zennas.track import Experiment, SearchPlan, load_experiment, load_space, lookup


def run(options: Options, *, progress: Progress | None = None) -> Settled:
    """Search, and measure the best candidates whole. A run that was stopped is gone on with."""
    return search_to_the_end(check(options), progress or silent())


def check(options: Options) -> Checked:
    """What the options name; UserError for what cannot be used. Nothing is touched."""
    experiment, track, space = load_experiment(options.track)
    plan = _plan(options, experiment)
    storage = asked_storage(options.storage)
    if options.teacher is not None and options.learn_from is None and options.then_train is None:
        raise UserError(f"--teacher {options.teacher}: nothing is trained; give --learn-from or --then-train too")
    if options.islands > 1 and storage is None:
        raise UserError(
            f"--islands {options.islands}: islands meet in a store that all reach, and the default is a SQLite file of "
            "one; give --storage postgresql://USER@HOST/DATABASE, or journal:FILE on one machine"
        )
    if options.device is not None and options.address is None:
        raise UserError(
            f"--device {options.device}: names nodes of a cluster, so give its --address; without one this machine "
            "measures"
        )
    if options.detector is not None and not options.detector.is_file():
        raise UserError(f"--detector {options.detector}: no such file")
    if options.images is not None and not options.images.exists():
        raise UserError(f"--images {options.images}: is not there")
    space = load_space(options.space) if options.space else space
    if plan.score.learned is not None:
        plan.score.learned.check_space(space, f"--score {options.score}")
    return Checked(
        experiment=experiment,
        track=track,
        space=space,
        plan=plan,
        out=lasting(options.out or pathlib.Path("runs") / experiment.name),
        backend=options.backend,
        images=options.images,
        batch=options.batch,
        budget_ms=options.budget_ms,
        detector=options.detector,
        evidence=options.evidence,
        num_workers=options.workers,
        address=options.address,
        device=options.device,
        storage=lasting_url(storage),
        table=lasting_url(checked_table(options.table)),
        num_islands=options.islands,
        resume=options.resume,
        fresh=options.fresh,
    )


def _plan(options: Options, experiment: Experiment) -> SearchPlan:
    """The experiment's plan with what is asked for in its place."""
    for table, ms in options.also.items():
        if not ms > 0:
            raise UserError(f"--also {table}={ms:g}: expected TABLE=MS with more than 0 ms")
    asked = {name: getattr(options, name) for name in ("minutes", "candidates", "seed", "max_mb", "max_gmacs")}
    asked["devices"] = options.also or None
    values = experiment.search.model_dump() | {name: value for name, value in asked.items() if value is not None}
    if options.score is not None:
        values["score"] = values["score"] | named_score(options.score)
    plan = SearchPlan.parse(values, "command line")
    for name in dict.fromkeys((plan.score.name, *plan.evidence.names)):
        if name != LEARNED:  # its model was read
            lookup(SCORES, name, "score")
    return plan


def search_to_the_end(checked: Checked, progress: Progress) -> Settled:
    """Every stage of a search, one after the other.

    KeyboardInterrupt and errors leave everything computed in the ledger.
    """
    resources = Resources(checked.out, progress)
    try:
        with resources:
            opened = open_search(checked, resources, progress)
            announce(opened)
            if (winners := finished_before(opened)) is not None:
                return _settled(opened, winners)
            opened.ledger.go_on()
            prepared = prepare(opened)
            searched = search(prepared)
            return settle(searched)
    except KeyboardInterrupt:
        progress.end()
        kept_in = resources.folder
        progress.say(f"stopped; everything computed is kept in {kept_in}: give the same command again to go on")
        raise
    except MeasuringError as error:
        raise ProcessLostError(
            f"{error}; what was computed before is kept; give the same command again to go on"
        ) from None


def settle(searched: Searched) -> Settled:
    """The finals, of one island at a time, and all that is written of them."""
    clock, store = searched.clock, searched.store
    with clock.timed("finals"), store.turn("finals"):
        take_from_islands(searched)
        winners = hold_finals(searched)
        with clock.timed("publishing"):
            winners = publish(searched, winners)
            store.drain(PATIENCE_S)
    num_workers = searched.workers.num_workers
    searched.ledger.save(finished=True, minutes=searched.plan.minutes, num_workers=num_workers)
    return _settled(searched, winners, stand_in=searched.budget.stand_in)


def _settled(opened: Opened, winners: list[Measured], *, stand_in: str | None = None) -> Settled:
    storage = opened.storage
    return Settled(
        experiment=opened.experiment.name,
        plan=opened.plan,
        winners=tuple(winners),
        baselines=tuple(opened.ledger.baselines),
        stand_in=stand_in,
        out=opened.out,
        folder=opened.folder,
        island=opened.island,
        num_islands=opened.num_islands,
        study=without_secret(storage) if storage else f"sqlite:///{opened.folder / 'study.db'}",
        needs_password=storage is not None and shown(storage) != storage,
    )
