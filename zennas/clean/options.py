"""From the words of a command line to the Options of a cleaning."""

import dataclasses
import pathlib

import pydantic

from zennas.clean.plan import CleanPlan
from zennas.provenance import command_line
from zennas.records import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user asks for."""

    data: pathlib.Path
    out: pathlib.Path
    plan: CleanPlan
    embeddings_from: str | None = None  # a network, as embed/named.py spells it
    embeddings: pathlib.Path | None = None  # an .npy of N rows instead
    rounds: int = 1
    start: str = "raw"  # of a round after the first: "raw" labels, or those that the "previous" round left
    workers: int | None = None
    address: str | None = None
    device: str | None = None
    resume: bool = False
    fresh: bool = False
    command: str = ""

    def settings(self, source, fingerprint):
        """What makes this run this run; how many rounds there are may change, from what they
        begin (each says so itself), and who does the work."""
        return {
            "data": source.fingerprint,
            "num_images": source.num_images,
            "num_identities": source.num_identities,
            "embeddings": fingerprint,
            **self.plan.model_dump(mode="json"),
        }


def request(data, *, out=None, thresholds=(), **others):
    """The Options of a cleaning. thresholds: {field of CleanPlan: value given}. UserError for what cannot be used."""
    data = pathlib.Path(data)
    if not data.exists():
        raise UserError(f"--data {data}: no such file or folder")
    plan = plan_of(dict(thresholds))
    given = [name for name in ("embeddings_from", "embeddings") if others.get(name) is not None]
    if len(given) != 1:
        raise UserError(
            "--embeddings-from MODEL asks a network for embeddings, --embeddings FILE.npy brings them: give one of "
            "the two"
        )
    rounds, start, device, workers = (
        others.get("rounds", 1),
        others.get("start", "raw"),
        others.get("device"),
        others.get("workers"),
    )
    if rounds < 1:
        raise UserError(f"--rounds: given {rounds}, allowed: 1 or more")
    if rounds > 1 and others.get("embeddings") is not None:
        raise UserError(
            f"--rounds {rounds}: a second round asks the network that the first one trained, and --embeddings brings "
            f"no "
            "network's images; give --embeddings-from"
        )
    if start not in ("raw", "previous"):
        raise UserError(f"--start: given '{start}', allowed: raw, previous")
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device: given '{device}', allowed: cpu, cuda")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: given {workers}, allowed: 1 or more")
    if workers is not None and others.get("address") is not None:
        raise UserError(
            f"--workers {workers}: are processes of this machine; a cluster (--address) has those that it has"
        )
    return Options(
        data=data,
        out=pathlib.Path(out or pathlib.Path("runs") / f"{data.stem or 'data'}-clean"),
        plan=plan,
        command=command_line(),
        **others,
    )


def plan_of(given):
    """The CleanPlan with some fields as given (None: as they are); a threshold may be the word 'none'. UserError by
    option.
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
                    f"{_option(name)}: given '{value}', allowed: a cosine between -1 and 1, or none to leave the "
                    f"step out"
                ) from None
        values[name] = value
    try:
        return CleanPlan.model_validate(values)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        name, said = detail["loc"][0], detail["msg"].removeprefix("Input should be ")
        raise UserError(f"{_option(name)}: given {detail['input']}, allowed: {said}") from None


def _option(name):
    return "--" + name.replace("_", "-")
