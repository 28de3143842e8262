"""What a user asks of `zennas evaluate`."""

import pathlib
import textwrap
from typing import Annotated

from zennas.evaluate.protocols import protocol_lines
from zennas.flags import Backend, BudgetMs, CommandOptions, Device, Faces, flag


class Options(CommandOptions):
    """How good a network is, by the protocol that each set is known for; several networks side by side.

    A model is a zennas checkpoint (network.pt or its folder), weights of another project (backbone.pth of insightface's
    arcface_torch, IR and IR-SE of face.evoLVe and TFace), an ONNX file, a torch.export program or TorchScript:
    FILE[,name=NAME][,normalise=insightface|imagenet|unit|none|MEAN/STD|M/M/M:S/S/S][,colour=rgb|bgr][,px=SIDE|HEIGHTxWIDTH][,trusted=yes]
    The last two kinds can run code of their authors: say trusted=yes for your own.

    A set is [PROTOCOL:]WHERE:

    \b
    {protocols}

    Faces are aligned crops (--faces says more); ijb:FOLDER brings its landmarks, reid is of whole persons.

    A LIST is a table with a header: image, label, and what the protocol needs (an error names it). Embeddings are kept
    in $ZENNAS_CACHE/embeddings (or ~/.cache/zennas): the same model on the same set is not asked again, and an
    interrupted evaluation goes on where it was.

    Under --out: report.html, results.csv, results.json.

    Exit codes: 0 done; 1 a network could not be evaluated on a set, the others were; 2 something given cannot be
    used; 3 a process that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C (the
    same command goes on).
    """

    model: Annotated[tuple[str, ...], flag("A network; may be repeated. See above.")]
    set: Annotated[tuple[str, ...], flag("A set; may be repeated. See above.")]
    faces: Faces = "auto"
    out: Annotated[pathlib.Path, flag("Folder for the results; an earlier evaluation there is written over.")] = (
        pathlib.Path("runs/evaluation")
    )
    track: Annotated[
        str | None,
        flag("Measure each model's latency too, by this track's rule, against its budget.", values="experiments"),
    ] = None
    budget_ms: BudgetMs = None
    backend: Backend = None
    pictures: Annotated[
        bool, flag("Show people: the ranked lists of a reid set's hardest queries, as pictures on the page.")
    ] = False
    flip: Annotated[bool | None, flag("Add the flipped image's embedding.", unset="as the protocol has it")] = None
    device: Device = None


# The protocols stand in their table alone.
Options.__doc__ = (Options.__doc__ or "").replace(
    "    {protocols}", textwrap.indent("\n".join(protocol_lines()), " " * 6)
)
