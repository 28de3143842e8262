"""Learning: all that `zennas learn` asks of what its networks are for, beside the Task. It is named by the task's row
of TASKS; its plan is the row's LearnPlan, which a request holds as `request.learn`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from zennas.tasks.judging import Judging


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning(Judging):
    """What the worth of a candidate's genes is learned by: a measure on what no candidate was trained on."""

    # (request, source, groups, folder) -> what a training is given so that it leaves the groups out: fields of its
    # Request that are options of `zennas train`, too; it may write into the folder
    trained: Callable[..., dict[str, Any]]
    # The same for a short training, where a sample of so much data is enough; None: as `trained`.
    trained_short: Callable[..., dict[str, Any]] | None = None
    settings: Callable[..., dict]  # (source, groups) -> entries of run.json: what makes a learning this learning
    measure: Callable[[Any], str]  # plan -> the name of its reward, in words: "AUC"
