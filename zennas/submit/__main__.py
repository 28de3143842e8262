"""The command `submit`: python -m zennas.submit --track T --model FILE.onnx, the same as: zennas submit ..."""

import pathlib
from typing import Annotated

import typer

from zennas import commands

HELP = """Would the challenge accept it? Judge a network, or for the webface tracks a whole system, by every rule that
a program can check: measured value, limit, verdict. Then write the zip that the challenge asks for.

The insightface tracks take one ONNX file in a zip. The webface tracks take a folder of code with a detector and a
recognition network: it is built from --model and --detector, or checked as it is with --system, and timed as a whole
over --images. What is measured is the time of this machine, beside a budget that the track's reference network
carried here. Where another kind of device stands in for the track's, the time is shown beside its budget and not
judged.

Exit codes: 0 no rule that could be judged is broken; 1 the challenge would refuse it (no zip is written without
--anyway); 2 something given cannot be used; 130 stopped by Ctrl-C.
"""
REFUSED = 1
STYLES = {"kept": "green", "broken": "bold red", "noted": "yellow", "not judged here": "cyan"}


def submit(
    track: Annotated[str, typer.Option(help="Experiment: a name under experiments/, or a path.")] = "insightface-ms1m",
    model: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="ONNX file, a folder or zip with one at its top (of several the last by name), or a folder that "
            "zennas train wrote."
        ),
    ] = None,
    detector: Annotated[
        pathlib.Path | None, typer.Option(help="YuNet ONNX file; the webface tracks need a detector.")
    ] = None,
    images: Annotated[
        list[pathlib.Path] | None,
        typer.Option(help="Photographs to time a whole system on: a folder, a .tar, a file; may be repeated."),
    ] = None,
    system: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="A folder of your own with pywebface260mmfr_implement.py, face_detection.py, assets/det/*.onnx and "
            "assets/face_reg/*.onnx, in place of --model and --detector."
        ),
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            help="What the model needs: insightface (mean 127.5, std 127.5) or none (pixels of 0 to 255). "
            "[default: insightface if zennas exported it, else as the checker sees it]"
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the zip. [default: the track's]")] = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Folder to write to. [default: runs/TRACK-submission]")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Budget in milliseconds of this machine, unscaled; of the whole system on a webface track."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Write the zip although it would be refused.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print submission.json on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.progress import Progress, console_for
    from zennas.submit.submission import submit as judge

    console = console_for(json_output=json_output)
    progress = Progress(console)
    submission, path, folder = judge(
        track,
        model=model,
        detector=detector,
        images=tuple(images or ()),
        system=system,
        name=name,
        out=out,
        budget_ms=budget_ms,
        backend=backend,
        normalise=normalise,
        anyway=anyway,
        progress=progress,
    )
    print_submission(submission, path, folder, console)
    if json_output:
        print((folder / "submission.json").read_text(encoding="utf-8"), end="")
    raise typer.Exit(0 if submission.accepted else REFUSED)


def print_submission(submission, path, folder, console):
    """The rules as a table, what there is to say of them, where the zip lies, and the rules that are the user's to
    keep.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{submission.track}: {submission.model}", title_justify="left")
    for column in ("rule", "measured", "limit", "verdict"):
        table.add_column(column, overflow="fold")
    for rule in submission.rules:
        table.add_row(*map(Text, (rule.name, rule.measured, rule.limit)), Text(rule.verdict, STYLES[rule.verdict]))
    console.print(table)
    for rule in submission.rules:
        if rule.said:
            style = STYLES[rule.verdict] if rule.verdict != "kept" else ""
            console.print(Text(f"{rule.name}: {rule.said}", style), soft_wrap=True)
    console.print("\nYours to keep, for no program sees it:")
    for rule in submission.yours:
        console.print(Text(f"  - {rule}"), soft_wrap=True)
    counts = {verdict: sum(rule.verdict == verdict for rule in submission.rules) for verdict in STYLES}
    names = ", ".join(rule.name for rule in submission.rules if rule.verdict == "not judged here")
    unjudged = f"; not judged here: {names}" if names else ""
    if submission.accepted:
        said = Text(f"\nAccepted: {counts['kept']} rules are kept, none is broken{unjudged}.", "green")
    else:
        said = Text(f"\nRefused: {counts['broken']} of {len(submission.rules)} rules are broken{unjudged}.", "bold red")
    console.print(said, soft_wrap=True)
    no_zip = "no zip is written (--anyway writes one)"
    console.print(Text(f"  {path or no_zip}\n  {folder / 'submission.json'}"), soft_wrap=True)


main = commands.function_command(submit, help=HELP)

if __name__ == "__main__":
    main()
