"""From the words of a command line to the Options of a training."""

import pathlib

import yaml

from zennas.provenance import command_line
from zennas.records import UserError
from zennas.space.candidate import read_candidates
from zennas.space.network import block_shapes, check_block
from zennas.track import load_experiment, load_space
from zennas.train.options import Options
from zennas.train_plan import TrainPlan


def request(track, *, data, winner=None, out=None, changes=(), space=None, **others):
    """The Options for an experiment's name or path; `changes` are KEY=VALUE of its recipe. UserError for what cannot be used."""
    experiment, the_track, the_space = load_experiment(track)
    plan = changed_plan(experiment.train, changes)
    the_space = load_space(space) if space else the_space
    winner = winner or pathlib.Path("runs") / experiment.name / "winner-1.yaml"
    if not pathlib.Path(winner).is_file():
        raise UserError(f"--winner {winner}: no such file; python -m zennas.search --track {track} finds winners")
    found = read_candidates(str(winner))
    if len(found) != 1:
        raise UserError(f"--winner {winner}: holds {len(found)} candidates; one is trained at a time")
    where, candidate = found[0]
    try:
        check_block(candidate.block)
        block_shapes(candidate, the_space.image_px)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    device, budget_ms = others.get("device"), others.get("budget_ms")
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device: given '{device}', allowed: cpu, cuda")
    if budget_ms is not None and not budget_ms > 0:
        raise UserError(f"--budget-ms: given {budget_ms:g}, allowed: more than 0")
    for name, path in (
        ("--data", data),
        ("--teacher", others.get("teacher")),
        ("--identities", others.get("identities")),
    ):
        if path is not None and not pathlib.Path(path).exists():
            raise UserError(f"{name} {path}: no such file or folder")
    out = pathlib.Path(out or pathlib.Path("runs") / f"{experiment.name}-trained")
    return Options(
        name=experiment.name, asked_track=track, track=the_track, space=the_space, plan=plan, candidate=candidate,
        data=pathlib.Path(data), out=out, command=command_line(), **others,
    )  # fmt: skip


def changed_plan(plan, changes):
    """The TrainPlan with KEY=VALUE changes, dots leading inwards; values are YAML.

    >>> changed_plan(TrainPlan(), ["epochs=2", "optimizer.lr=0.05", "loss.knobs.margin_rad=0.3"]).loss.knobs
    {'margin_rad': 0.3}
    """
    values = plan.model_dump(mode="json")
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise UserError(f"--set {change}: expected KEY=VALUE, such as optimizer.lr=0.05")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {change}: '{text}' is not a value") from None
        *path, last = key.split(".")
        inside = values
        for part in path:
            inside = inside.setdefault(part, {}) if isinstance(inside, dict) else None
            if not isinstance(inside, dict):
                raise UserError(f"--set {change}: '{part}' holds a value, nothing that has keys")
        if last == "name" and inside.get("name") != value and "knobs" in inside:
            inside["knobs"] = {}  # they are the other row's
        inside[last] = value
    return TrainPlan.parse(values, "--set" if changes else "the recipe")
