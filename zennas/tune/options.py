"""What a user asks of `zennas tune`."""

import pathlib
from typing import Annotated, ClassVar

from zennas.flags import (
    RESUME_OR_FRESH,
    Address,
    Changes,
    CommandOptions,
    Data,
    Device,
    Experiment,
    Faces,
    Network,
    Space,
    flag,
)


class Options(CommandOptions):
    """Search the recipe: thresholds that clean the data, the unified margin loss, depth against width of the backbone.

    Where the task is faces, --data are aligned crops (--faces says more).
    Every trial is a short run of `zennas train`, judged after every epoch on people it does not train on; Optuna
    proposes, and poor trials are stopped early. The first trial is the recipe as it stands. What may vary is the
    `tune:` part of the track's experiment. Ctrl-C ends it; the same command with the same --out goes on, and no
    finished trial is run again.

    Exit codes: 0 searched; 1 no trial was run to its end; 2 something given cannot be used; 3 a process that it
    began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = RESUME_OR_FRESH
    data: Data
    faces: Faces = "auto"
    track: Experiment = "webface-sfr"
    winner: Annotated[
        pathlib.Path | None,
        flag("Candidate (YAML) whose depth and width are searched.", unset="runs/TRACK/winner-1.yaml"),
    ] = None
    embeddings_from: Annotated[
        Network,
        flag("Network whose embeddings clean the data, as zennas evaluate takes it: FILE[,normalise=...][,px=...]."),
    ] = None
    out: Annotated[pathlib.Path | None, flag("Folder of the run.", unset="runs/TRACK-tuned")] = None
    trials: Annotated[
        int | None, flag("Trials, the recipe among them.", unset="the experiment's", ge=1, le=2**31 - 1)
    ] = None
    epochs: Annotated[int | None, flag("Epochs of a trial.", unset="the experiment's", ge=1, le=2**31 - 1)] = None
    seed: Annotated[int | None, flag("Seed of proposals and trials.", unset="the experiment's", ge=0, le=2**31 - 1)] = (
        None
    )
    only: Annotated[
        tuple[str, ...],
        flag(
            "Search this alone: backbone, or another part of the experiment's tune: (a wrong name lists them); may be "
            "repeated. [default: all of the experiment's]"
        ),
    ] = ()
    held_out: Annotated[
        pathlib.Path | None,
        flag("Text file of identities, one a line, that the reward is taken on.", unset="drawn: tune.held_out_share"),
    ] = None
    test: Annotated[
        pathlib.Path | None,
        flag("Identities that are asked when the search is over.", unset="another share, drawn"),
    ] = None
    set: Annotated[Changes, flag("KEY=VALUE of the recipe all trials begin from; may be repeated.")] = ()
    space: Annotated[Space, flag("Search space of the backbone.", unset="the experiment's")] = None
    workers: Annotated[int | None, flag("Trials at once.", unset="one per processor core", ge=1, le=4096)] = None
    threads: Annotated[
        int | None,
        flag("Threads of a trial.", unset="the cores shared out; 1 with --address", ge=1, le=4096),
    ] = None
    device: Device = None
    address: Address = None
    resume: Annotated[bool, flag("Go on with a search; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move a search that is there aside and begin anew.")] = False
