"""What a user asks of `zennas learn`."""

import pathlib
from typing import Annotated, ClassVar

from zennas.flags import (
    RESUME_OR_FRESH,
    Address,
    Backend,
    BudgetMs,
    Changes,
    CommandOptions,
    Data,
    Device,
    Experiment,
    Faces,
    Images,
    Network,
    Space,
    flag,
)


class Options(CommandOptions):
    """Learn from a few short trainings which networks of a space are the better ones on your own data.

    Measures candidates of equal latency at the track's budget, trains some of them by a short run of the experiment's
    recipe, judges each on people whom nobody was trained on, and fits what each width and depth is worth. Then
    `zennas search --score learned:OUT` finds the best network that this predicts within the budget. Where the task is
    faces, --data are aligned crops (--faces says more). Ctrl-C ends it; the same command with the same --out goes on,
    and no finished training is run again.

    Exit codes: 0 learned; 1 too few trainings ran to their end, or seeds differ more than candidates; 2 something given
    cannot be used; 3 a process that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = RESUME_OR_FRESH
    OUTPUTS: ClassVar[dict[str, str]] = {"json": "Print what was learned as JSON on standard output."}
    data: Data
    faces: Faces = "auto"
    track: Experiment = "webface-sfr"
    out: Annotated[pathlib.Path | None, flag("Folder of the run.", unset="runs/TRACK-learned")] = None
    teacher: Annotated[
        Network,
        flag(
            "Teacher of every training, as zennas train takes it: FILE[,normalise=...][,px=...]. Give the one that the "
            "winner will be trained with.",
            metavar="FILE[,KEY=VALUE]",
            unset="none",
        ),
    ] = None
    trainings: Annotated[
        int | None, flag("Candidates to train.", unset="the experiment's learn.trainings, 16", ge=4, le=512)
    ] = None
    epochs: Annotated[int | None, flag("Epochs of a short training.", unset="the experiment's learn.epochs", ge=1)] = (
        None
    )
    seed: Annotated[
        int | None, flag("Seed of all draws and trainings.", unset="the experiment's, 0", ge=0, le=2**31 - 2)
    ] = None
    held_out: Annotated[
        pathlib.Path | None,
        flag("Text file of identities, one a line, that trainings are judged on.", unset="drawn: learn.held_out_share"),
    ] = None
    test: Annotated[
        pathlib.Path | None,
        flag(
            "Identities that nothing is chosen by; `zennas run` crowns its winner on them.",
            unset="drawn: learn.test_share",
        ),
    ] = None
    set: Annotated[Changes, flag("KEY=VALUE of the recipe of all trainings; may be repeated.")] = ()
    space: Space = None
    budget_ms: BudgetMs = None
    backend: Backend = None
    images: Images = None
    workers: Annotated[int | None, flag("Trainings at once.", unset="one per processor core", ge=1, le=4096)] = None
    threads: Annotated[
        int | None, flag("Threads of a training.", unset="the cores shared out; 1 with --address", ge=1, le=4096)
    ] = None
    device: Annotated[Device, flag("Of the trainings: cpu or cuda.", unset="cuda where there is a GPU")] = None
    address: Address = None
    latency_device: Annotated[
        str | None,
        flag(
            "Measure latency on nodes of the cluster tagged latency_device:NAME.",
            metavar="NAME",
            unset="those tagged latency_device",
        ),
    ] = None
    resume: Annotated[bool, flag("Go on with a run; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move a run that is there aside and begin anew.")] = False
