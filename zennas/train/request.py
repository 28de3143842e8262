"""From what a user asks to the Request of a training, with all that it names loaded."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from zennas.data.layouts import is_there
from zennas.embed.checkpoint import holds_network, load_network
from zennas.embed.model import fingerprint_of
from zennas.embed.named import file_named
from zennas.provenance import command_line
from zennas.records import UserError, parse_yaml, some
from zennas.space.candidate import Candidate, read_candidates
from zennas.space.families.family import BuiltNetwork
from zennas.space.families.table import layout_of
from zennas.space.space import Space
from zennas.tasks.table import FIRST, task_of
from zennas.tasks.task import Data
from zennas.track import Experiment, Track, load_experiment, load_space
from zennas.train.options import Options
from zennas.train_plan import IN_STEPS, ONLY_OF, TrainPlan

OTHER_UNIT = IN_STEPS | {steps: epochs for epochs, steps in IN_STEPS.items()}
# Fields that say where something lies, beside the teacher.
PATHS = ("data", "out", "identities", "labels", "start", "initial")


@dataclasses.dataclass(frozen=True)
class Request:
    """A training as it is done. It travels to other processes and machines, so it holds values only."""

    name: str  # of the experiment
    asked_track: str  # as the user gave it: a name or a path
    track: Track
    space: Space
    plan: TrainPlan  # of the task
    candidate: Candidate
    data: pathlib.Path
    out: pathlib.Path
    shared: pathlib.Path | None = None  # where trainings with one teacher share its answers; None: each has its own
    faces: str = "auto"  # what --faces says of the data and of the sets
    identities: pathlib.Path | None = None
    labels: pathlib.Path | None = None  # a file of data/labels.py: what every image counts as, or that it is left out
    teacher: str | None = None  # FILE[,KEY=VALUE...], as embed/named.py spells it
    start: pathlib.Path | None = None  # a checkpoint to begin from where the folder has none of its own
    initial: pathlib.Path | None = None  # a network to begin from at step 0
    initial_print: str | None = None  # the fingerprint of its weights
    verify: tuple[str, ...] = ()  # SET.bin, or PAIRS@SOURCE
    device: str | None = None
    backend: str | None = None
    budget_ms: float | None = None
    any_size: bool = False  # a network that need not keep the track's budget: a teacher
    resume: bool = False
    fresh: bool = False
    command: str = ""
    task: str = FIRST  # a row of TASKS: what the network is for

    def measured_with(self) -> dict[str, Any]:
        """What the result of a trained network depends on beside its training: where it differs, that alone is made
        again.
        """
        return {
            "budget_ms": self.budget_ms,
            "backend": self.backend,
            "verify": list(self.verify),
            "any_size": self.any_size,
        }

    def settings(self, data: Data, teacher_print: str | None) -> dict[str, Any]:
        """What makes this run this run: a resumed one must agree in all of it. Data and teacher may have moved; what
        they hold must be the same (teacher_print: the teacher's fingerprint, or None)."""
        task = {} if self.task == FIRST else {"task": self.task}
        begun = {} if self.initial_print is None else {"from": self.initial_print}
        return {
            "experiment": self.name,
            "track": self.track.name,
            "candidate": self.candidate.plain(),
            **self.space.shape.plain(),
            "data": data.fingerprint,
            **data.counts,
            "teacher": teacher_print,
            **task,
            **begun,
            **self.plan.of_the_run(),
        }


def check(options: Options) -> Request:
    """The Request of these options; UserError for what cannot be used. Nothing is written."""
    experiment, track, space, plan = check_recipe(options)
    initial = options.from_ if options.from_ is not None and holds_network(options.from_) else None
    network = None if initial is None else _initial_network(initial, space)
    if network is not None and options.winner is None:
        candidate = network.candidate
    else:
        candidate = _winner(options, experiment, space)
    if network is not None and candidate != network.candidate:
        raise UserError(
            f"--from {initial}: the network of {network.candidate.text}, and --winner {options.winner} is "
            f"{candidate.text}; leave --winner out"
        )
    return Request(
        name=experiment.name,
        asked_track=options.track,
        track=track,
        space=space,
        plan=plan,
        candidate=candidate,
        data=options.data,
        faces=options.faces,
        out=options.out or pathlib.Path("runs") / f"{experiment.name}-trained",
        identities=options.identities,
        labels=options.labels,
        teacher=options.teacher,
        start=options.from_ if initial is None else None,
        initial=initial,
        initial_print=None if network is None else fingerprint_of(network),
        verify=options.verify,
        device=options.device,
        backend=options.backend,
        budget_ms=options.budget_ms,
        any_size=options.any_size,
        resume=options.resume,
        fresh=options.fresh,
        command=command_line(),
        task=experiment.task,
    )


def _winner(options: Options, experiment: Experiment, space: Space) -> Candidate:
    """The candidate that --winner names."""
    winner = options.winner or pathlib.Path("runs") / experiment.name / "winner-1.yaml"
    if not winner.is_file():
        raise UserError(
            f"--winner {winner}: no such file; python -m zennas.search --track {options.track} finds winners"
        )
    candidates = read_candidates(str(winner))
    if len(candidates) != 1:
        raise UserError(f"--winner {winner}: holds {len(candidates)} candidates; one is trained at a time")
    where, candidate = candidates[0]
    try:
        layout_of(candidate, space.shape)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return candidate


def _initial_network(path: pathlib.Path, space: Space) -> BuiltNetwork:
    """The network that --from names; UserError where it takes or gives something else than the space's."""
    try:
        network = load_network(path)
    except UserError as error:
        raise UserError(f"--from {error}") from None
    if network.shape != space.shape:
        raise UserError(
            f"--from {path}: its network has {network.shape.text}, the space {space.name} {space.shape.text}; "
            "choose another --track, or a --space of these sizes"
        )
    return network


def check_faces(faces: str, task: str) -> None:
    """UserError for what --faces says where a task is not about faces."""
    if faces != "auto" and not task_of(task).finds_crops:
        raise UserError(f"--faces {faces}: is about faces, which the task '{task}' does not take; leave it out")


def check_recipe(options: Options) -> tuple[Experiment, Track, Space, TrainPlan]:
    """What `check` does before it needs a winner, so that a search that is to be followed by a training refuses a bad
    one before it begins.
    """
    if options.address and options.ray is None:
        raise UserError(f"--address {options.address}: says where Ray is, and --ray how many ranks; give both")
    experiment, track, space = load_experiment(options.track)
    plan = changed_plan(experiment.train, options.changes, options.words)
    task = task_of(experiment.task)
    _check_plan(task, experiment, options, plan)
    check_faces(options.faces, experiment.task)
    paths = {"--data": options.data, "--identities": options.identities, "--labels": options.labels}
    if options.teacher is not None:
        paths["--teacher"] = file_named(options.teacher, "--teacher")
    for name, path in paths.items():
        if path is not None and not is_there(path):
            raise UserError(f"{name} {path}: no such file or folder")
    for text in options.verify:
        for file in task.set_paths(text):
            if not is_there(file):
                rest = text.partition(":")[2]
                takes = (
                    f"; give {rest}: --verify takes no protocol"
                    if rest and all(map(is_there, task.set_paths(rest)))
                    else ""
                )
                raise UserError(f"--verify {text}: {file}: cannot be read: no such file or folder{takes}")
    for change in options.changes if options.teacher is None else ():
        if task.taught and change.startswith(task.taught):
            raise UserError(
                f"--set {change}: is about a teacher, and without --teacher nothing is left to learn from there; "
                "give one, or leave it out"
            )
    return experiment, track, load_space(options.space) if options.space else space, plan


def _check_plan(task, experiment, options, plan):
    """UserError where the task cannot use the plan: by the changes without any one of which it could, or by the
    experiment's name where it cannot use that either."""

    def is_sound(changes):
        try:
            task.check_plan(changed_plan(experiment.train, changes), experiment.name)
        except UserError:
            return False
        return True

    if is_sound(options.changes):
        return
    others = [options.changes[:at] + options.changes[at + 1 :] for at in range(len(options.changes))]
    at_fault = [word for word, changes in zip(options.words, others, strict=True) if is_sound(changes)]
    task.check_plan(plan, some(at_fault or options.words) if is_sound(()) else experiment.name)


def changed_plan(plan, changes, words=None):
    """The TrainPlan with KEY=VALUE changes, dots leading inwards; values are YAML. words: how each was given, where not
    by --set.

    Where a `name` changes, what the plan gave for the other row is left behind: its knobs, and what the new row does
    not have. Where a length changes from epochs to steps or back, the plan's own in the other unit is.

    >>> from zennas.train_plan import TrainPlan
    >>> changed_plan(TrainPlan(), ["epochs=2", "optimizer.lr=0.05"]).optimizer.lr
    0.05
    """
    # Keep only what the user gave; drop defaults of the old row.
    values = plan.model_dump(mode="json", exclude_unset=True)
    parsed = [(change, *_parsed(change)) for change in changes]
    for _, path, value in parsed:
        if len(path) == 2 and path[1] == "name" and isinstance(values.get(path[0]), dict):
            values[path[0]] = _of_row(value, values[path[0]], path[0], plan)
    for _, (*path, last), value in parsed:
        if value is not None and last in OTHER_UNIT:
            inside = values.get(path[0]) if path else values
            if isinstance(inside, dict):
                inside.pop(OTHER_UNIT[last], None)
    for change, (*path, last), value in parsed:
        inside = values
        for part in path:
            inside = inside.setdefault(part, {}) if isinstance(inside, dict) else None
            if not isinstance(inside, dict):
                raise UserError(f"--set {change}: '{part}' holds a value, nothing that has keys")
        inside[last] = value
    words = words or [f"--set {change}" for change in changes]

    def given_by(keys: Sequence[str | int]) -> str:
        """The words that changed what these keys lead to; all of them where there are none."""
        led = tuple(map(str, keys))
        of_it = [
            word
            for word, (_, path, _) in zip(words, parsed, strict=True)
            if all(part == key for part, key in zip(path, led, strict=False))
        ]
        return some(of_it or words) or "the recipe"

    return type(plan).parse(values, given_by)


def _parsed(change):
    """(keys from the outside in, value) of KEY=VALUE."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UserError(f"--set {change}: expected KEY=VALUE, such as optimizer.lr=0.05")
    return key.split("."), parse_yaml(text, f"--set {change}")


def _of_row(name, values, part, plan):
    """What of the values of a part of the plan stays where its row is now `name`."""
    if getattr(getattr(plan, part), "name", name) == name:
        return values
    only_of = ONLY_OF.get(part, {})
    return {key: value for key, value in values.items() if key != "knobs" and name in only_of.get(key, (name,))}
