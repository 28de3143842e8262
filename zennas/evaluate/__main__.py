"""The command `evaluate`: python -m zennas.evaluate --model M --set S, the same as: zennas evaluate ..."""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.records import UserError

HELP = """How good a network is, by the protocol that each set is known for; several networks side by side.

A model is a zennas checkpoint (network.pt or its folder), an ONNX file, a torch.export program or TorchScript:
FILE[,name=NAME][,normalise=insightface|imagenet|unit|none|MEAN/STD|M/M/M:S/S/S][,colour=rgb|bgr][,px=SIDE|HEIGHTxWIDTH][,trusted=yes]
The last two kinds can run code of their authors: say trusted=yes for your own.

A set is [PROTOCOL:]WHERE:

\b
  SET.bin                         InsightFace's pairs (lfw.bin): ten folds, the flipped image added
  PAIRS.txt@IMAGES                the same for pairs in LFW's format; IMAGES: a folder, .tar or train.rec
  ijb:FOLDER                      IJB-B, IJB-C by templates: TAR at FAR 1e-6 to 1e-1
  mfr:LIST.csv@IMAGES             the InsightFace tracks' MFR: masks, children, races, all; their ranking
  webface:LIST.csv@IMAGES         the WebFace260M tracks: FNMR at FMR 1e-5, masked and standard
  reid:LIST.csv@IMAGES            re-identification: mAP, CMC, re-ranked too
  identification:LIST.csv@IMAGES  1:N: rank-k, TPIR at FPIR
  all:LIST.csv@IMAGES or all:FACES  TAR at FAR over all pairs, exact

A LIST is a table with a header: image, label, and what the protocol needs (an error names it). Embeddings are kept in
$ZENNAS_CACHE/embeddings (or ~/.cache/zennas): the same model on the same set is not asked again, and an interrupted
evaluation goes on where it was.

Under --out: report.html, results.csv, results.json.

Exit codes: 0 done; 1 a network could not be evaluated on a set, the others were; 2 something given cannot be used;
130 stopped by Ctrl-C (the same command goes on).
"""


def evaluate(
    model: Annotated[list[str], typer.Option(help="A network; may be repeated. See above.")],
    set_: Annotated[list[str], typer.Option("--set", help="A set; may be repeated. See above.")],
    out: Annotated[
        pathlib.Path, typer.Option(help="Folder for the results; an earlier evaluation there is written over.")
    ] = pathlib.Path("runs/evaluation"),
    track: Annotated[
        str | None, typer.Option(help="Measure each model's latency too, by this track's rule, against its budget.")
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Budget in milliseconds of this machine, unscaled.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Add the flipped image's embedding. [default: as the protocol has it]"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is a GPU]")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.evaluate.outcome import evaluate_and_tell
    from zennas.evaluate.run import Options
    from zennas.progress import console_for

    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device: given '{device}', allowed: cpu or cuda")
    if track is None and (budget_ms is not None or backend is not None):
        raise UserError("--budget-ms and --backend are about latency, which --track measures; give it too")
    if budget_ms is not None and not budget_ms > 0:
        raise UserError(f"--budget-ms: given {budget_ms:g}, allowed: above 0")
    options = Options(
        tuple(model), tuple(set_), out, track=track, backend=backend, budget_ms=budget_ms, device=device, flip=flip
    )
    results, code = evaluate_and_tell(options, console_for(json_output=json_output))
    if json_output:
        print(json.dumps(results, indent=2))
    raise typer.Exit(code)


main = commands.function_command(evaluate, help=HELP)

if __name__ == "__main__":
    main()
