"""From the words of a command line to the Options of a training."""

import pathlib

import yaml

from zennas.provenance import command_line
from zennas.records import UserError
from zennas.space.candidate import read_candidates
from zennas.space.network import block_places, check_block
from zennas.tasks.table import task_of
from zennas.track import load_experiment, load_space
from zennas.train.options import PATHS, Options
from zennas.train_plan import ONLY_OF

MADE_OR_CHECKED_LATER = ("out", "start")  # paths that need not be there


def request(track, *, data, winner=None, out=None, changes=(), space=None, **others):
    """The Options for an experiment's name or path; `changes` are KEY=VALUE of its recipe. UserError for what cannot be
    used.
    """
    experiment, the_track, the_space, plan = check_request(track, data=data, changes=changes, space=space, **others)
    winner = winner or pathlib.Path("runs") / experiment.name / "winner-1.yaml"
    if not pathlib.Path(winner).is_file():
        raise UserError(f"--winner {winner}: no such file; python -m zennas.search --track {track} finds winners")
    found = read_candidates(str(winner))
    if len(found) != 1:
        raise UserError(f"--winner {winner}: holds {len(found)} candidates; one is trained at a time")
    where, candidate = found[0]
    try:
        check_block(candidate.block)
        block_places(candidate, the_space.shape)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    out = pathlib.Path(out or pathlib.Path("runs") / f"{experiment.name}-trained")
    return Options(
        name=experiment.name,
        asked_track=track,
        track=the_track,
        space=the_space,
        plan=plan,
        candidate=candidate,
        data=pathlib.Path(data),
        out=out,
        command=command_line(),
        task=experiment.task,
        **others,
    )


def check_request(track, *, data, changes=(), space=None, **others):
    """(Experiment, Track, Space, TrainPlan) of what `request` takes: all of it that needs no winner, so that a search
    which is to be followed by a training refuses it before it begins. UserError for what cannot be used."""
    experiment, the_track, the_space = load_experiment(track)
    plan = changed_plan(experiment.train, changes)
    task = task_of(experiment.task)
    task.check_plan(plan, experiment.name)
    device, budget_ms, teacher = (others.get(name) for name in ("device", "budget_ms", "teacher"))
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device: given '{device}', allowed: cpu, cuda")
    if budget_ms is not None and not budget_ms > 0:
        raise UserError(f"--budget-ms: given {budget_ms:g}, allowed: more than 0")
    paths = {name: others.get(name) for name in PATHS if name not in MADE_OR_CHECKED_LATER} | {"data": data}
    for name, path in paths.items():
        if path is not None and not pathlib.Path(path).exists():
            raise UserError(f"--{name} {path}: no such file or folder")
    for text in others.get("verify", ()):
        for path in task.set_paths(text):
            if not pathlib.Path(path).exists():
                raise UserError(f"--verify {text}: {path}: cannot be read: no such file or folder")
    for change in changes if teacher is None else ():
        if task.taught and change.startswith(task.taught):
            raise UserError(
                f"--set {change}: is about a teacher, and without --teacher nothing is left to learn from there; "
                "give one, or leave it out"
            )
    return experiment, the_track, load_space(space) if space else the_space, plan


def changed_plan(plan, changes):
    """The TrainPlan with KEY=VALUE changes, dots leading inwards; values are YAML.

    Where a `name` changes, what the plan gave for the other row is left behind: its knobs, and what the new row does
    not have.

    >>> from zennas.train_plan import TrainPlan
    >>> changed_plan(TrainPlan(), ["epochs=2", "optimizer.lr=0.05"]).optimizer.lr
    0.05
    """
    # What was given alone: defaults of a row that is not asked for any more are no wish of anybody's.
    values = plan.model_dump(mode="json", exclude_unset=True)
    parsed = [(change, *_parsed(change)) for change in changes]
    for _, path, value in parsed:
        if len(path) == 2 and path[1] == "name" and isinstance(values.get(path[0]), dict):
            values[path[0]] = _of_row(value, values[path[0]], path[0], plan)
    for change, (*path, last), value in parsed:
        inside = values
        for part in path:
            inside = inside.setdefault(part, {}) if isinstance(inside, dict) else None
            if not isinstance(inside, dict):
                raise UserError(f"--set {change}: '{part}' holds a value, nothing that has keys")
        inside[last] = value
    return type(plan).parse(values, "--set" if changes else "the recipe")


def _parsed(change):
    """(keys from the outside in, value) of KEY=VALUE."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UserError(f"--set {change}: expected KEY=VALUE, such as optimizer.lr=0.05")
    try:
        return key.split("."), yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: '{text}' is not a value") from None


def _of_row(name, values, part, plan):
    """What of the values of a part of the plan stays where its row is now `name`."""
    if getattr(getattr(plan, part), "name", name) == name:
        return values
    only_of = ONLY_OF.get(part, {})
    return {key: value for key, value in values.items() if key != "knobs" and name in only_of.get(key, (name,))}
