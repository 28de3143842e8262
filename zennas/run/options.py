"""What a user asks of `zennas run`."""

import pathlib
from typing import Annotated, ClassVar

from zennas.flags import Address, Backend, BudgetMs, Changes, CommandOptions, Data, Device, Faces, Network, flag


class Options(CommandOptions):
    """Search, then train the best winner: from a track's name to a trained ONNX file, measured again by the track's
    rule. With --learn the whole way: learn from a few trainings, search by that, train the winners, crown the best.

    Every stage is skipped where it is done, and goes on where it stopped: give the same command again. The search lies
    in OUT, the training in OUT-trained. `zennas search` and `zennas train` do the same in two steps, with all their
    options.

    Exit codes: 0 trained; 1 no winner, or trained but over the budget; 2 something given cannot be used; 3 a
    process that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    OUTPUTS: ClassVar[dict[str, str]] = {"json": "Print winners and result as JSON on standard output."}
    experiment: Annotated[
        str, flag("A name under experiments/, or a path.", values="experiments", metavar="EXPERIMENT", positional=True)
    ]
    data: Data
    faces: Faces = "auto"
    out: Annotated[pathlib.Path | None, flag("Folder of the search.", unset="runs/EXPERIMENT")] = None
    minutes: Annotated[float | None, flag("Of the search.", unit="minutes", unset="the experiment's")] = None
    candidates: Annotated[int | None, flag("Stop the search after so many scored candidates.")] = None
    teacher: Annotated[
        Network, flag("Teacher of the training, as zennas train takes it: FILE[,normalise=...][,px=...].", unset="none")
    ] = None
    verify: Annotated[tuple[str, ...], flag("SET.bin or PAIRS@SOURCE; may be repeated.")] = ()
    learn: Annotated[
        bool,
        flag(
            "First learn from a few trainings on --data which networks are the better ones (zennas learn), search by "
            "that, train all winners by the full recipe and crown the one that measures best."
        ),
    ] = False
    trainings: Annotated[
        int | None, flag("With --learn: candidates to train.", unset="the experiment's learn.trainings", ge=4, le=512)
    ] = None
    held_out: Annotated[
        pathlib.Path | None,
        flag(
            "With --learn: text file of identities that the trainings are judged on.",
            unset="drawn: learn.held_out_share",
        ),
    ] = None
    test: Annotated[
        pathlib.Path | None,
        flag("With --learn: identities by whom the winner is crowned.", unset="another share, drawn"),
    ] = None
    identities: Annotated[pathlib.Path | None, flag("Text file of identities to train on.")] = None
    set: Annotated[Changes, flag("KEY=VALUE of the training recipe; may be repeated.")] = ()
    budget_ms: BudgetMs = None
    backend: Backend = None
    device: Annotated[Device, flag("Of the training: cpu or cuda.", unset="cuda where there is a GPU")] = None
    ray: Annotated[int | None, flag("Train with so many ranks on Ray.", ge=1)] = None
    address: Annotated[Address, flag("Address of a Ray cluster.", unset="private local Rays", metavar="HOST:PORT")] = (
        None
    )
