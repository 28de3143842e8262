"""From what a user asks to the Request of a cleaning: paths resolved, thresholds checked."""

import dataclasses
import pathlib
from typing import Any, Literal

import pydantic

from zennas.clean.options import Options
from zennas.clean.plan import CleanPlan
from zennas.data.layouts import is_there
from zennas.data.sources import AnySource
from zennas.flags import spelled
from zennas.provenance import command_line
from zennas.records import UserError


@dataclasses.dataclass(frozen=True)
class Request:
    """A cleaning as it is done."""

    data: pathlib.Path
    out: pathlib.Path
    plan: CleanPlan
    embeddings_from: str | None = None  # a network, as embed/named.py spells it
    faces: str = "auto"  # what --faces says of the data
    embeddings: pathlib.Path | None = None  # an .npy of N rows instead
    rounds: int = 1
    # Of a round after the first: the labels of the data, or those that the last round left.
    start: Literal["raw", "previous"] = "raw"
    workers: int | None = None
    address: str | None = None
    device: str | None = None
    resume: bool = False
    fresh: bool = False
    command: str = ""

    def settings(self, source: AnySource, fingerprint: str) -> dict[str, Any]:
        """What makes this run this run. Rounds, their start and workers may change.

        fingerprint: of the network or the file that embeds.
        """
        return {
            "data": source.images.fingerprint,
            "num_images": source.num_images,
            "num_identities": source.num_identities,
            "embeddings": fingerprint,
            **self.plan.model_dump(mode="json"),
        }


def check(options: Options) -> Request:
    """The Request of these options; UserError for what cannot be used."""
    data = options.data
    if not is_there(data):
        raise UserError(f"--data {data}: no such file or folder")
    plan = plan_of({name: getattr(options, name) for name in CleanPlan.model_fields} | {"move": options.move or None})
    if (options.embeddings_from is None) == (options.embeddings is None):
        raise UserError(
            "--embeddings-from MODEL asks a network for embeddings, --embeddings FILE.npy brings them: "
            "give one of the two"
        )
    if options.rounds > 1 and options.embeddings is not None:
        raise UserError(
            f"--rounds {options.rounds}: a second round asks the network that the first one trained, and --embeddings "
            "brings no network's images; give --embeddings-from"
        )
    if options.workers is not None and options.address is not None:
        raise UserError(
            f"--workers {options.workers}: are processes of this machine; a cluster (--address) has those that it has"
        )
    training = options.track or options.winner or options.set
    if options.look is not None and (options.take_back or options.fresh or options.rounds > 1 or training):
        raise UserError(f"--look {options.look}: decides nothing; give --take-back, --fresh, --rounds without it")
    if options.rounds == 1 and training:
        raise UserError("--track, --winner and --set are of the training between rounds; give --rounds 2 or more")
    return Request(
        data=data,
        faces=options.faces,
        out=options.out or pathlib.Path("runs") / f"{data.stem or 'data'}-clean",
        plan=plan,
        embeddings_from=options.embeddings_from,
        embeddings=options.embeddings,
        rounds=options.rounds,
        start=options.start,
        workers=options.workers,
        address=options.address,
        device=options.device,
        resume=options.resume,
        fresh=options.fresh,
        command=command_line(),
    )


def plan_of(given: dict[str, Any]) -> CleanPlan:
    """The CleanPlan with some fields as given (None: as they are); a threshold may be the word 'none'.
    UserError by option.
    """
    values = {}
    for name, value in given.items():
        if value is None:
            continue
        if name.startswith("tau_") and isinstance(value, str):
            try:
                value = None if value.lower() == "none" else float(value)
            except ValueError:
                raise UserError(
                    f"{spelled(name)}: given '{value}', allowed: a cosine between -1 and 1, "
                    "or none to leave the step out"
                ) from None
        values[name] = value
    try:
        return CleanPlan.model_validate(values)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        name, allowed = detail["loc"][0], detail["msg"].removeprefix("Input should be ")
        raise UserError(f"{spelled(name)}: given {detail['input']}, allowed: {allowed}") from None
