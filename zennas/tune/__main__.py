"""The command `tune`: python -m zennas.tune --track T --data D --embeddings-from M, the same as: zennas tune ..."""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.ray_address import keep_ray_on_loopback
from zennas.train.__main__ import DATA_HELP

HELP = """Search the recipe: thresholds that clean the data, the unified margin loss, depth against width of the
backbone.

Every trial is a short run of `zennas train`, judged after every epoch on people it does not train on; Optuna
proposes, and poor trials are stopped early. The first trial is the recipe as it stands. What may vary is the `tune:`
part of the track's experiment. Ctrl-C ends it; the same command with the same --out goes on, and no finished trial is
run again.

Exit codes: 0 searched; 1 no trial was run to its end; 2 something given cannot be used; 130 stopped by Ctrl-C.
"""


def tune(
    data: Annotated[pathlib.Path, typer.Option(help=DATA_HELP)],
    track: Annotated[str, typer.Option(help="Experiment: a name under experiments/, or a path.")] = "webface-sfr",
    winner: Annotated[
        pathlib.Path | None,
        typer.Option(help="Candidate (YAML) whose depth and width are searched. [default: runs/TRACK/winner-1.yaml]"),
    ] = None,
    embeddings_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Network whose embeddings clean the data, as zennas evaluate takes it: FILE[,normalise=...].",
        ),
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the run. [default: runs/TRACK-tuned]")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials, the recipe among them. [default: the experiment's]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a trial. [default: the experiment's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals and trials. [default: the experiment's]")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Search this alone: cleaning, margin or backbone; may be repeated. [default: all of the experiment's]"
        ),
    ] = None,
    held_out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Text file of identities, one a line, that the reward is taken on. [default: a share, drawn]"
        ),
    ] = None,
    test: Annotated[
        pathlib.Path | None,
        typer.Option(help="Identities that are asked when the search is over. [default: another share, drawn]"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe all trials begin from; may be repeated.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search space of the backbone. [default: the experiment's]")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at once. [default: one per processor core]")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a trial. [default: the cores shared out; 1 with --address]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is a GPU]")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster ('auto' inside one). [default: a private local Ray]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search; an error where there is none.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a search that is there aside and begin anew.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    if address is None:
        keep_ray_on_loopback()
    from zennas.progress import console_for
    from zennas.records import UserError
    from zennas.tune.options import request
    from zennas.tune.outcome import print_summary
    from zennas.tune.run import go

    if resume and fresh:
        raise UserError("--resume and --fresh exclude each other")
    options = request(
        track,
        data=data,
        winner=winner,
        out=out,
        changes=tuple(set_ or ()),
        space=space,
        trials=trials,
        epochs=epochs,
        seed=seed,
        only=tuple(only or ()),
        workers=workers,
        threads=threads,
        embeddings_from=embeddings_from,
        held_out=held_out,
        test=test,
        device=device,
        address=address,
        resume=resume,
        fresh=fresh,
    )
    console = console_for(json_output=json_output)
    try:
        summary = go(options, console, json_output=json_output)
    except KeyboardInterrupt:
        console.print(
            f"stopped; finished trials are kept in {options.shown_out}: give the same command again to go on",
            markup=False,
            soft_wrap=True,
        )
        raise
    if json_output:
        print(json.dumps(summary, indent=2))
    if summary["best"] is None:
        console.print(
            f"no trial was run to its end; see {options.shown_out / 'trials.csv'}", style="yellow", soft_wrap=True
        )
        raise typer.Exit(1)
    print_summary(options, summary, console)


main = commands.function_command(tune, help=HELP)

if __name__ == "__main__":
    main()
