"""The command `clean`: python -m zennas.clean --data D --embeddings-from M --out DIR, the same as: zennas clean ..."""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.ray_address import keep_ray_on_loopback
from zennas.train.__main__ import DATA_HELP

HELP = """Clean identities: find those that are one person, images that are of somebody else, pictures that stand in
two of them.

A network embeds all images; the centre of an identity is that of its largest cluster (DBSCAN). Identities whose
centres are alike are merged; then images nearer to another identity's centre and duplicates over identities are left
out, then, by fresh centres, images far from their own. With --rounds N a network is trained on what is left, by the
recipe of --track, and cleans again.

Nothing is deleted: OUT/decisions.parquet says of every image what was decided and why, OUT/labels.npz is the new list
for `zennas train --labels`, --look shows an identity and --take-back undoes a decision. Ctrl-C and kill -9 lose no
more than the parts under way: give the same command again.

Exit codes: 0 cleaned; 2 something given cannot be used; 130 stopped by Ctrl-C.
"""
THRESHOLD = "Cosine, or none to leave the step out. "


def clean(
    data: Annotated[pathlib.Path, typer.Option(help=DATA_HELP)],
    embeddings_from: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Network that embeds, as zennas evaluate takes it: FILE[,normalise=...]."),
    ] = None,
    embeddings: Annotated[
        pathlib.Path | None,
        typer.Option(help="An .npy of a row for each image, in the order of the data, instead of a network."),
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the run. [default: runs/DATA-clean]")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; between two of them a network is trained.")] = 1,
    start: Annotated[
        str,
        typer.Option(
            help="Of the rounds after the first: raw (all images are judged anew), or previous (what is left)."
        ),
    ] = "raw",
    track: Annotated[
        str | None, typer.Option(help="Experiment whose recipe trains between rounds. [default: webface-sfr]")
    ] = None,
    winner: Annotated[
        pathlib.Path | None, typer.Option(help="Candidate (YAML) to train. [default: runs/TRACK/winner-1.yaml]")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe; may be repeated.")] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="inter-intra (merge, between identities, within them) or intra-inter (CAST's). [default: inter-intra]"
        ),
    ] = None,
    tau_merge: Annotated[
        str | None,
        typer.Option(help=f"{THRESHOLD}Identities whose centres are more alike are one person. [default: 0.7]"),
    ] = None,
    tau_duplicate: Annotated[
        str | None,
        typer.Option(help=f"{THRESHOLD}Images of two identities that are more alike are one. [default: 0.95]"),
    ] = None,
    tau_other: Annotated[
        str | None,
        typer.Option(
            help=f"{THRESHOLD}Images nearer to another identity's centre, and at least so near, are of it. [default: "
            f"0.5]"
        ),
    ] = None,
    tau_intra: Annotated[
        str | None,
        typer.Option(
            help=f"{THRESHOLD}Images no nearer to their identity's centre are of somebody else. [default: 0.25]"
        ),
    ] = None,
    dbscan_eps: Annotated[
        float | None, typer.Option(help="Cosine distance within which images are neighbours. [default: 0.6]")
    ] = None,
    dbscan_min_samples: Annotated[
        int | None, typer.Option(help="Neighbours that make the core of a cluster. [default: 2]")
    ] = None,
    min_images: Annotated[
        int | None, typer.Option(help="Identities with fewer images left are left out. [default: 1]")
    ] = None,
    move: Annotated[
        bool,
        typer.Option("--move", help="Give images to the identity they are nearer to, instead of leaving them out."),
    ] = False,
    take_back: Annotated[
        list[str] | None,
        typer.Option(
            help="Undo a decision: image:NAME (or its number) stays, identity:NAME is nobody else; may be repeated."
        ),
    ] = None,
    look: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Write OUT/look-NAME.html: all images of an identity, and what was decided."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes. [default: one per core from 200,000 images on, else this one alone]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of the network: cpu or cuda. [default: cuda where there is a GPU]")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster ('auto' inside one). [default: a private local Ray]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a cleaning; an error where there is none.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a cleaning that is there aside and begin anew.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    if address is None:
        keep_ray_on_loopback()
    from zennas.clean.options import request
    from zennas.clean.outcome import print_summary
    from zennas.clean.run import go, look_at
    from zennas.progress import console_for
    from zennas.records import UserError

    if resume and fresh:
        raise UserError("--resume and --fresh exclude each other")
    thresholds = {
        "order": order,
        "tau_merge": tau_merge,
        "tau_duplicate": tau_duplicate,
        "tau_other": tau_other,
        "tau_intra": tau_intra,
        "dbscan_eps": dbscan_eps,
        "dbscan_min_samples": dbscan_min_samples,
        "min_images": min_images,
        "move": move or None,
    }
    options = request(
        data,
        out=out,
        thresholds=thresholds,
        embeddings_from=embeddings_from,
        embeddings=embeddings,
        rounds=rounds,
        start=start,
        workers=workers,
        device=device,
        address=address,
        resume=resume,
        fresh=fresh,
    )
    console = console_for(json_output=json_output)
    if look is not None:
        if take_back or fresh or rounds > 1 or track or winner or set_:
            raise UserError(f"--look {look}: decides nothing; give --take-back, --fresh, --rounds without it")
        console.print(f"written: {look_at(options, look)}", markup=False, soft_wrap=True)
        return
    train_next = _trainer(options, track or "webface-sfr", winner, set_, console) if rounds > 1 else None
    if rounds == 1 and (track or winner or set_):
        raise UserError("--track, --winner and --set are of the training between rounds; give --rounds 2 or more")
    try:
        summary = go(options, console, train_next=train_next, taken_back=tuple(take_back or ()))
    except KeyboardInterrupt:
        console.print(
            f"stopped; what was computed is kept in {options.out}: give the same command again to go on",
            markup=False,
            soft_wrap=True,
        )
        raise
    if json_output:
        print(json.dumps(summary, indent=2))
    print_summary(options, summary, console)


def _trainer(options, track, winner, changes, console):
    """train_next(labels, out) of `go`: the track's recipe on the labels; its request is refused before the first
    round."""
    from zennas.train.request import request
    from zennas.train.terminal import train_and_tell

    def asked(labels, out):
        # What a network takes of a budget is nothing to a cleaning.
        return request(
            track,
            data=options.data,
            winner=winner,
            out=out,
            changes=list(changes or []),
            labels=labels,
            device=options.device,
            any_size=True,
        )

    asked(None, options.out)

    def train_next(labels, out):
        train_and_tell(asked(labels, out), console)
        return str(out)

    return train_next


main = commands.function_command(clean, help=HELP)

if __name__ == "__main__":
    main()
