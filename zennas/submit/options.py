"""What a user asks of `zennas submit`."""

import pathlib
from typing import Annotated, Any, ClassVar, Literal, get_args

import pydantic

from zennas.flags import Backend, BudgetMs, CommandOptions, Experiment, flag
from zennas.records import UserError, suggestion

Normalisation = Literal["insightface", "none"]  # the names of checker.NORMALISATIONS


class Options(CommandOptions):
    """Would the challenge accept it? Judge a network, or for the webface tracks a whole system, by every rule that
    a program can check: measured value, limit, verdict. Then write the zip that the challenge asks for.

    The insightface tracks take one ONNX file in a zip. The webface tracks take a folder of code with a detector and a
    recognition network: it is built from --model and --detector, or checked as it is with --system, and timed as a
    whole over --images. What is measured is the time of this machine, beside a budget that the track's reference
    network carried here. Where another kind of device stands in for the track's, the time is shown beside its budget
    and not judged.

    Exit codes: 0 no rule that could be judged is broken; 1 the challenge would refuse it (no zip is written without
    --anyway); 2 something given cannot be used; 3 a process that it began died, or could not begin (what was done
    is kept); 130 stopped by Ctrl-C.
    """

    OUTPUTS: ClassVar[dict[str, str]] = {
        "json": "Print submission.json on standard output; all else on standard error."
    }
    track: Experiment = "insightface-ms1m"
    model: Annotated[
        pathlib.Path | None,
        flag(
            "ONNX file, a folder or zip with one at its top (of several the last by name), or a folder that zennas "
            "train wrote."
        ),
    ] = None
    detector: Annotated[pathlib.Path | None, flag("YuNet ONNX file; the webface tracks need a detector.")] = None
    images: Annotated[
        tuple[pathlib.Path, ...],
        flag("Photographs to time a whole system on: a folder, a .tar, a file; may be repeated."),
    ] = ()
    system: Annotated[
        pathlib.Path | None,
        flag(
            "A folder of your own with pywebface260mmfr_implement.py, face_detection.py, assets/det/*.onnx and "
            "assets/face_reg/*.onnx, in place of --model and --detector."
        ),
    ] = None
    normalise: Annotated[
        Normalisation | None,
        flag(
            "What the model needs: insightface (mean 127.5, std 127.5) or none (pixels of 0 to 255).",
            unset="insightface if zennas exported it, else as the checker sees it",
        ),
    ] = None
    name: Annotated[str | None, flag("Name of the zip.", unset="the track's")] = None
    out: Annotated[pathlib.Path | None, flag("Folder to write to.", unset="runs/TRACK-submission")] = None
    budget_ms: Annotated[
        BudgetMs, flag("Budget in milliseconds of this machine, unscaled; of the whole system on a webface track.")
    ] = None
    backend: Backend = None
    anyway: Annotated[bool, flag("Write the zip although it would be refused.")] = False

    @pydantic.field_validator("normalise", mode="before")
    @classmethod
    def _normalise_is_known(cls, given: Any) -> Any:
        """A message that says what to do with a network that needs another one."""
        if given is not None and given not in get_args(Normalisation):
            raise UserError(
                f"--normalise '{given}' is not known; {suggestion(str(given), list(get_args(Normalisation)))}; the "
                "checkers feed nothing else: a network that needs another one must have it inside its graph"
            )
        return given
