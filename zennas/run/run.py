"""The work of `zennas run`, of `zennas search --then-train` and of `--learn-from`: a search, then its best winner
trained; or the order learned first, the search by it, all winners trained and the best one crowned.
"""

import dataclasses
from typing import Any

import torch

from zennas.learn import run as learn_room
from zennas.learn.options import Options as LearnOptions
from zennas.learn.outcome import Learned
from zennas.learn.request import Asked
from zennas.learn.request import check as check_learning
from zennas.learn.show import show as show_learned
from zennas.progress import Progress, silent
from zennas.records import UserError
from zennas.run.crowning import Crowned, crown
from zennas.run.options import Options
from zennas.run.show import show_crowned
from zennas.search import run as search_room
from zennas.search.measured import Measured
from zennas.search.options import Options as SearchOptions
from zennas.search.show import NO_WINNER
from zennas.search.show import show as show_winners
from zennas.search.stages import Checked
from zennas.space.learned import LEARNED
from zennas.tasks.table import task_of
from zennas.track import load_experiment, load_space
from zennas.train import run as train_room
from zennas.train.options import Options as TrainOptions
from zennas.train.request import check_recipe
from zennas.train.show import show as show_network


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `run` returns."""

    winners: tuple[Measured, ...]  # of the search, best first
    trained: dict[str, Any] | None  # the result of the training; None without a winner
    code: int  # exit code
    learned: Learned | None = None  # None where nothing was learned
    crowned: Crowned | None = None  # of several trainings, which is the best; `trained` is its result

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        plain = {"winners": [entry.plain() for entry in self.winners], "trained": self.trained}
        for name, record in (("learned", self.learned), ("crowned", self.crowned)):
            if record is not None:
                plain[name] = record.model_dump(mode="json")
        return plain


@dataclasses.dataclass(frozen=True)
class Request:
    """A search, checked, and what the training after it is asked for."""

    search: SearchOptions
    checked: Checked
    training: TrainOptions  # without its winner, which is not known yet
    learning: tuple[LearnOptions, Asked] | None = None  # what is learned before; None: nothing


def run(options: Options | SearchOptions, *, progress: Progress | None = None) -> Trained:
    """Search, then train the best winner. UserError before the search for what either cannot use."""
    progress = progress or silent()
    asked = check(options)
    experiment, _, space = load_experiment(str(asked.training.track))
    look = task_of(experiment.task).look
    if look is not None and asked.training.faces == "auto":  # now, and not when the search is over
        space = load_space(asked.training.space) if asked.training.space else space
        look(asked.training.data, space.shape, progress)
    if asked.learning is not None:
        return _learned(asked, progress)
    settled = search_room.search_to_the_end(asked.checked, progress)
    progress.close()
    code = show_winners(settled, asked.search, progress.console)
    if code == NO_WINNER:
        return Trained(winners=(), trained=None, code=code)
    training = asked.training.model_copy(update={"winner": settled.folder / "winner-1.yaml"})
    trained = train_room.run(training, progress=Progress(progress.console))
    code = show_network(trained, training, progress.console)
    return Trained(winners=settled.winners, trained=trained.result, code=code)


def _learned(asked: Request, progress: Progress) -> Trained:
    """Learn, search by what was learned, train every winner by the full recipe, crown the best."""
    assert asked.learning is not None
    options, learning = asked.learning
    learned = learn_room.learn(learning, progress)
    progress.close()
    show_learned(learned, options, progress.console)
    search = asked.search.model_copy(update={"score": f"{LEARNED}:{learned.out}"})
    settled = search_room.search_to_the_end(search_room.check(search), Progress(progress.console))
    code = show_winners(settled, search, progress.console)
    if code == NO_WINNER:
        return Trained(winners=(), trained=None, code=code, learned=learned)
    request, trained = learning.request, []
    trained_on = learn_room.trained_on(request)  # whoever judges is left out of these trainings, too
    for entry in settled.winners:
        training = asked.training.model_copy(
            update={
                "winner": settled.folder / f"{entry.name}.yaml",
                "out": asked.checked.trained_out / entry.name,
            }
            | trained_on
        )
        network = train_room.run(training, progress=Progress(progress.console))
        show_network(network, training, progress.console)
        trained.append((entry, network))
    last = Progress(progress.console)
    crowned = crown(request, learned, trained, last)
    last.close()
    show_crowned(crowned, progress.console)
    result = next(network.result for entry, network in trained if entry.name == crowned.best.name)
    code = 0 if crowned.best.accepted else 1
    return Trained(winners=settled.winners, trained=result, code=code, learned=learned, crowned=crowned)


def check(options: Options | SearchOptions) -> Request:
    """The search and the training that are asked for; UserError for what either cannot use. Nothing is touched."""
    if isinstance(options, SearchOptions):
        search, data = options, options.learn_from or options.then_train
        more: dict[str, Any] = {"space": options.space, "teacher": options.teacher}
    else:
        search, data = _search_of(options), options.data
        more = {
            name: getattr(options, name)
            for name in ("faces", "teacher", "verify", "identities", "set", "device", "ray")
        }
        more["address"] = options.address if options.ray else None
        for name in () if options.learn else ("trainings", "held_out", "test"):
            if (value := getattr(options, name)) is not None:
                raise UserError(f"--{name.replace('_', '-')} {value}: is for --learn; give it too, or leave it out")
    checked = search_room.check(search)
    training = TrainOptions.of(
        data=data,
        track=search.track,
        out=checked.trained_out,
        budget_ms=search.budget_ms,
        backend=search.backend,
        fresh=search.fresh,
        **more,
    )
    check_recipe(training)
    if training.device == "cuda" and training.ray is None and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; give --device cpu")
    learning = _learning_of(options, search, training, checked) if _learns(options) else None
    return Request(search=search, checked=checked, training=training, learning=learning)


def _learns(options: Options | SearchOptions) -> bool:
    return options.learn_from is not None if isinstance(options, SearchOptions) else options.learn


def _learning_of(
    options: Options | SearchOptions, search: SearchOptions, training: TrainOptions, checked: Checked
) -> tuple[LearnOptions, Asked]:
    """What is to be learned before the search; UserError for what goes with no learning."""
    if search.score is not None:
        raise UserError(f"--score {search.score}: the score is what is learned; leave it out, or do not learn")
    if training.identities is not None:
        raise UserError(
            f"--identities {training.identities}: who is trained on, and who judges, is drawn from all of --data; give "
            "data of these alone, or name who judges with --held-out and --test"
        )
    same = {name: getattr(training, name) for name in ("data", "faces", "track", "teacher", "set", "space", "device")}
    same |= {name: getattr(search, name) for name in ("budget_ms", "backend", "images", "seed", "fresh", "address")}
    if not isinstance(options, SearchOptions):
        same |= {name: getattr(options, name) for name in ("trainings", "held_out", "test")}
    asked = LearnOptions.of(
        out=checked.out.with_name(f"{checked.out.name}-learned"), latency_device=search.device, **same
    )
    return asked, check_learning(asked)


def _search_of(options: Options) -> SearchOptions:
    """The options of the search, as `zennas search` takes them."""
    same = ("out", "minutes", "candidates", "budget_ms", "backend", "address")
    given = {name: getattr(options, name) for name in same}
    return SearchOptions.of(track=options.experiment, **given)
