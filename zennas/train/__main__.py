"""The command `train`: python -m zennas.train --track T --winner W --data D --out O, the same as: zennas train ..."""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands

HELP = """Train a winner of a search: margin loss over sampled class centres, distillation from a teacher; then export
it to ONNX and measure its latency again by the track's rule, with the trained weights.

The recipe is the `train:` part of the track's experiment; --set changes a value of it. Ctrl-C ends it with a
checkpoint; the same command with the same --out goes on, also on another number of ranks. Start several ranks with
torchrun (torchrun --nproc-per-node 8 -m zennas.train ...) or on Ray with --ray 8.

Exit codes: 0 trained; 1 trained, but over the track's budget or refused by its checker; 2 something given cannot be
used; 130 stopped by Ctrl-C.
"""
DATA_HELP = (
    "Faces: a folder with train.rec, a .tar or a folder of .tar shards, or a folder of folders, one per identity."
)


def train(
    data: Annotated[pathlib.Path, typer.Option(help=DATA_HELP)],
    track: Annotated[str, typer.Option(help="Experiment: a name under experiments/, or a path.")] = "webface-sfr",
    winner: Annotated[
        pathlib.Path | None, typer.Option(help="Candidate (YAML). [default: runs/TRACK/winner-1.yaml]")
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the run. [default: runs/TRACK-trained]")] = None,
    teacher: Annotated[
        pathlib.Path | None,
        typer.Option(help="Teacher: a folder that zennas train wrote, an ONNX file, a .pt2. [default: none]"),
    ] = None,
    from_: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--from", help="Checkpoint (a folder step-N of another run) whose weights and step to begin from."
        ),
    ] = None,
    verify: Annotated[
        list[str] | None, typer.Option(help="SET.bin or PAIRS.txt@SOURCE to verify on now and then; may be repeated.")
    ] = None,
    identities: Annotated[
        pathlib.Path | None, typer.Option(help="Text file of identities, one a line: train on these alone.")
    ] = None,
    labels: Annotated[
        pathlib.Path | None,
        typer.Option(help="Labels (.npz, as zennas tune writes): who every image counts as, or that it is left out."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="The same as --set epochs=N.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all ranks; the same as --set batch=N.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same as --set seed=N.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="KEY=VALUE of the recipe, such as optimizer.lr=0.05 or loss.name=arcface; may be repeated."
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Search space: image and embedding size. [default: the experiment's]")
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="The network need not keep the track's budget: a teacher.")
    ] = False,
    budget_ms: Annotated[float | None, typer.Option(help="Budget in milliseconds of this machine, unscaled.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is a GPU]")] = None,
    ray: Annotated[int | None, typer.Option(help="Start so many ranks on Ray.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, with --ray ('auto' inside one). [default: a private local Ray]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training; an error where there is none.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a training that is there aside and begin anew.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.progress import console_for
    from zennas.ranks import leave
    from zennas.records import UserError
    from zennas.train.request import request
    from zennas.train.terminal import train_and_tell

    if resume and fresh:
        raise UserError("--resume and --fresh exclude each other")
    if ray is not None and ray < 1:
        raise UserError(f"--ray: given {ray}, allowed: 1 or more")
    if address and ray is None:
        raise UserError(f"--address {address}: says where Ray is, and --ray how many ranks; give both")
    given = {"epochs": epochs, "batch": batch, "seed": seed}
    changes = [f"{name}={value}" for name, value in given.items() if value is not None] + (set_ or [])
    options = request(
        track,
        data=data,
        winner=winner,
        start=from_,
        out=out,
        changes=changes,
        space=space,
        teacher=teacher,
        verify=tuple(verify or ()),
        identities=identities,
        labels=labels,
        any_size=any_size,
        budget_ms=budget_ms,
        backend=backend,
        device=device,
        resume=resume,
        fresh=fresh,
    )
    result, code = train_and_tell(options, console_for(json_output=json_output), num_ray_workers=ray, address=address)
    if json_output and result is not None:
        print(json.dumps(result, indent=2))
    leave(code)


main = commands.function_command(train, help=HELP)

if __name__ == "__main__":
    main()
