"""The whole path of a search, from a track's name to winners on disk: read `run_search`."""

from zennas.progress import Progress
from zennas.records import UserError
from zennas.search.finals import hold_finals, take_from_islands
from zennas.search.loop import search
from zennas.search.measured import Measured
from zennas.search.opening import announce, finished_before, open_search
from zennas.search.outcome import publish
from zennas.search.prepare import prepare
from zennas.search.resources import Resources
from zennas.search.stages import Checked, Opened, Searched, Settled
from zennas.search.storage import PATIENCE_S
from zennas.search.workers import MeasuringError


def run_search(checked: Checked, progress: Progress) -> Settled:
    """Search to the end; a run that was stopped is gone on with.

    KeyboardInterrupt and errors leave everything computed in the ledger.
    """
    resources = Resources(checked.out, progress)
    try:
        with resources:
            opened = open_search(checked, resources, progress)
            announce(opened)
            if (winners := finished_before(opened)) is not None:
                return _settled(opened, winners)
            prepared = prepare(opened)
            searched = search(prepared)
            return settle(searched)
    except KeyboardInterrupt:
        progress.end()
        kept_in = resources.folder
        progress.say(f"stopped; everything computed is kept in {kept_in}: give the same command again to go on")
        raise
    except MeasuringError as error:
        raise UserError(f"{error}; what was computed before is kept; give the same command again to go on") from None


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
    return Settled(
        experiment=opened.experiment.name,
        score_label=opened.plan.score.label,
        winners=tuple(winners),
        baselines=tuple(opened.ledger.baselines),
        stand_in=stand_in,
        folder=opened.folder,
        island=opened.island,
    )
