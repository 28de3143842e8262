"""What a user asks of `zennas export`."""

import pathlib
from typing import Annotated, Literal

from zennas.flags import Backend, BudgetMs, CommandOptions, Experiment, flag


class Options(CommandOptions):
    """Take over a trained network: weights of another project (backbone.pth of insightface's arcface_torch, IR and
    IR-SE of face.evoLVe and TFace) or a zennas checkpoint. The candidate is read from the weights. Then write what the
    other commands take, and measure the network by the track's rule, beside its budget.

    \b
    Under --out:
    candidate.yaml   for zennas score, latency, train --winner
    network.pt       for zennas train --from, evaluate --model, train --teacher
    model.onnx       for zennas submit, latency; proved to answer as PyTorch does
    export.json      all that is known of it

    Exit codes: 0 written, whether or not it keeps the budget; 2 something given cannot be used; 3 a process
    that it began died, or could not begin; 130 stopped by Ctrl-C.
    """

    model: Annotated[
        pathlib.Path, flag("Weights of another project (backbone.pth), a zennas checkpoint, or the folder of one.")
    ]
    track: Experiment = "webface-sfr"
    out: Annotated[pathlib.Path | None, flag("Folder to write to.", unset="runs/NAME-exported")] = None
    colour: Annotated[
        Literal["rgb", "bgr"],
        flag("Order of the colours that the network was trained on; bgr is turned round: what is written takes RGB."),
    ] = "rgb"
    latency: Annotated[bool, flag("Measure its latency by the track's rule.")] = True
    budget_ms: BudgetMs = None
    backend: Backend = None
    fresh: Annotated[bool, flag("Move an export of another network that is there aside and begin anew.")] = False
