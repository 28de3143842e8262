"""Judging: all that a room that trains many networks for a short while asks of what they are for, beside the Task: its
data, whom nobody trains on, how good a network is on them. A record of functions over frozen values.

Throughout, `request` is the room's Request: it has the `data`, `space`, `device` and `task` of all its trainings, the
files `held_out` and `test` of a user who names the groups, and the room's plan under its own name (`request.tune`,
`request.learn`). `plan` is that plan, `source` what the task reads its data from, `groups` its Groups.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Groups(Protocol):
    """How the data is shared out. It travels to other processes and machines, so it holds values only; what is trained
    on is the task's own matter."""

    held_out: Any  # what a network is judged on after every epoch
    test: Any  # what is asked when all is chosen; None: nothing


class Unit(NamedTuple):
    """How a page and the terminal show a reward: times a factor, with a sign behind it."""

    times: float = 100.0
    sign: str = "%"  # "": none
    name: str = "per cent"  # "": none
    differences: str = "points"  # what a difference of two is counted in


PER_CENT = Unit()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """How the networks of a task are judged on what nobody trains on."""

    open_source: Callable[..., Any]  # (request, progress) -> the source, with its `notices`; each trial opens it anew
    split: Callable[..., Groups]  # (request, source); UserError for groups that say nothing
    # (request, source, network, group, *, device, autocast) -> {"reward": more is better, numbers that have a title}
    judge: Callable[..., dict[str, float]]
    # The name of a number beside the reward -> its title; None for other names, such as columns of a table.
    title: Callable[[str], str | None]
    described: Callable[..., dict]  # (plan, groups) -> entries of the summary: held_out, test, and the task's own
    announced: Callable[..., dict]  # (request, groups) -> {name: a line} printed before the first trial
    unit: Unit = PER_CENT  # of the reward
