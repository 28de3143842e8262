"""The command `run`: python -m zennas.run EXPERIMENT --data DATA, the same as: zennas run EXPERIMENT --data DATA."""

import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.train.__main__ import DATA_HELP

HELP = """Search, then train the best winner: from a track's name to a trained ONNX file, measured again by the
track's rule.

Every stage is skipped where it is done, and goes on where it stopped: give the same command again. The search lies in
OUT, the training in OUT-trained. `zennas search` and `zennas train` do the same in two steps, with all their options.

Exit codes: 0 trained; 1 no winner, or trained but over the budget; 2 something given cannot be used; 130 stopped by
Ctrl-C.
"""


def run(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A name under experiments/, or a path.")],
    data: Annotated[pathlib.Path, typer.Option(help=DATA_HELP)],
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the search. [default: runs/EXPERIMENT]")] = None,
    minutes: Annotated[float | None, typer.Option(help="Of the search. [default: the experiment's]")] = None,
    candidates: Annotated[int | None, typer.Option(help="Stop the search after so many scored candidates.")] = None,
    teacher: Annotated[pathlib.Path | None, typer.Option(help="Teacher of the training. [default: none]")] = None,
    verify: Annotated[list[str] | None, typer.Option(help="SET.bin or PAIRS.txt@SOURCE; may be repeated.")] = None,
    identities: Annotated[pathlib.Path | None, typer.Option(help="Text file of identities to train on.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the training recipe; may be repeated.")
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Budget in milliseconds of this machine, unscaled.")] = None,
    backend: Annotated[str | None, typer.Option(help="Latency backend. [default: the track's]")] = None,
    device: Annotated[str | None, typer.Option(help="Of the training: cpu or cuda.")] = None,
    ray: Annotated[int | None, typer.Option(min=1, help="Train with so many ranks on Ray.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster. [default: private local Rays]")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print winners and result as JSON on standard output.")
    ] = False,
):
    """See HELP."""
    from zennas.search.__main__ import search_and_train

    training = {
        "teacher": teacher,
        "verify": tuple(verify or ()),
        "identities": identities,
        "changes": tuple(set_ or ()),
        "device": device,
        "num_ray_workers": ray,
        "address": address if ray else None,
    }
    search_and_train(
        track=experiment,
        out=out,
        minutes=minutes,
        candidates=candidates,
        seed=None,
        workers=None,
        budget_ms=budget_ms,
        backend=backend,
        detector=None,
        space=None,
        storage=None,
        address=address,
        then_train=data,
        resume=False,
        fresh=False,
        json_output=json_output,
        training=training,
    )


main = commands.function_command(run, help=HELP)

if __name__ == "__main__":
    main()
