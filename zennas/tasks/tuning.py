"""Tuning: all that a comprehensive search asks of what its networks are for, beside the Task. A record of functions
over frozen values, named by the task's row of TASKS.

Throughout, `plan` is the TunePlan of the task, `knobs` {knob: value} of what differs from the recipe as it stands; the
rest is as in judging.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from zennas.tasks.judging import Judging


class Trained(NamedTuple):
    """What one trial trains on."""

    options: dict[str, Any]  # fields of the training's Request
    facts: dict[str, Any]  # what trial.json says of it, beside the counts of the Task's data


class Best(NamedTuple):
    """What is handed on of the best trial, beside its candidate and its changes of the recipe."""

    content: dict[str, Any]  # entries of best.yaml
    files: dict[str, str]  # option of `zennas train` -> the name of a file beside best.yaml


@dataclasses.dataclass(frozen=True)
class TuningPage:
    """The words of a task on the page and in the terminal. `summary` is what run.json holds of a search that is done.
    Texts are HTML where they stand on the page alone."""

    subtitle: str
    reward: Callable[[dict], str]  # summary -> what the reward is, a paragraph
    facts: Callable[[dict], list]  # summary -> [(name, text)] among the facts at the top
    notes: Callable[[dict], list]  # entries of `Tuning.described` -> sentences on what the reward cannot tell
    knobs: dict[str, str]  # knob -> the title of its axis, in the order of the plan's
    counts: tuple[str, ...]  # num_... of a trial's facts that every table shows
    counts_of: dict[str, tuple[str, ...]]  # knob -> num_... that the list of trials shows where it was searched
    chosen_by: str  # what the best was chosen by: "points on ..."
    unseen: str  # what nothing was chosen by: "points on ..."
    unchosen: str  # the same in "on ..., is the figure to quote"
    tested: str  # a sentence on the test
    meaning: tuple[str, ...]  # what to know before concluding anything, beside what is true of every search


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Judging):
    """What the recipes of a task are searched by. Its factors and their knobs are FACTORS of its TunePlan."""

    # (options, plan, the recipe's plan); UserError for options that do not fit one another or the recipe
    check: Callable[..., None]
    recipe: Callable[[Any], str]  # the recipe's plan -> the part of it that the factors move, in words
    changes: Callable[[dict], tuple[str, ...]]  # knobs -> KEY=VALUE of the recipe, as --set takes them

    open_model: Callable[..., Any]  # request -> a network that knobs need beside the data, or None
    # (source, groups, model) -> entries of run.json: what makes a search this search
    settings: Callable[..., dict]
    # (request, source, model, progress) -> what knobs need of it, made once for all trials; it travels as Groups do
    prepare: Callable[..., Any]

    # (request, source, groups, prepared, knobs, folder), which may write into the trial's folder
    trained: Callable[..., Trained]

    reward: Callable[[Any], Any]  # plan -> what the reward is, for the summary

    handed_on: tuple[str, ...]  # options of `zennas train` for which `best` may name a file
    best: Callable[[dict], Best]  # knobs ->
    write_best: Callable[..., None]  # (request, source, groups, prepared, knobs): the files of `best`, in request.out
    page: TuningPage
    # Modules that what Ray kept of an older version's searches names -> where they are now.
    moved: dict[str, str] = dataclasses.field(default_factory=dict)
