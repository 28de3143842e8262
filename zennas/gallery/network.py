"""The network of a gallery, and the unit vectors that it gives."""

# B pictures, D embedding size

import contextlib
from typing import Any, Literal

import numpy as np

from zennas.embed.checkpoint import file_of
from zennas.embed.named import Named, file_named, open_named, resolved
from zennas.gallery.store import SETTINGS, Settings
from zennas.names import shown
from zennas.provenance import provenance
from zennas.records import UserError, first_line

SHORTEST = 1e-12  # an embedding that is shorter has no direction
NO_DIRECTION = "its embedding is not finite, or zero"


def network_of(text: str | None, settings: Settings | None, *, folder: object, device: str) -> Named:
    """The Named that --model says; without it, the gallery's own.

    UserError where it cannot be opened, or another one made the gallery: its embeddings cannot be compared with these.
    """
    if text is not None:
        named = open_named(text, device=device)
    elif settings is not None:
        named = open_named(settings.model, device=device, option=f"{folder}: its network, which --model names anew:")
    else:
        raise UserError("--enrol makes a new gallery, and needs a network that embeds: give --model FILE")
    if settings is not None:
        check_network(settings, named, folder=folder)
    return named


def check_network(settings: Settings, named: Named, *, folder: object) -> None:
    """UserError where another network made the gallery."""
    model: Any = named.model
    if model.fingerprint == settings.fingerprint and model.embedding_size != settings.embedding_size:
        raise UserError(
            f"{folder}: says that its vectors have {settings.embedding_size} numbers; its network gives "
            f"{model.embedding_size}: its {SETTINGS} was changed; bring back the one it had"
        )
    if model.fingerprint != settings.fingerprint:
        if _same_file(settings.model, named.file):
            raise UserError(
                f"{named.file}: is the file of {folder}'s network, and its weights changed, or what its images go "
                f"through (now {named.normalisation}); the gallery is of {settings.model} as it was; bring that "
                "back, or make another gallery"
            )
        raise UserError(
            f"--model {named.file}: is not the network of {folder}; it gives {model.embedding_size} numbers "
            f"({model.fingerprint}), the gallery holds {settings.embedding_size} ({settings.fingerprint}) of "
            f"{settings.model}; leave --model out, or make another gallery"
        )


def _same_file(text, file):
    """Whether a network's text, as a gallery keeps it, names this file: perhaps by the folder that holds it."""
    with contextlib.suppress(UserError):
        return file_of(file_named(text, "--model")).resolve() == file.resolve()
    return False


def settings_of(named: Named, text: str, *, holds: Literal["faces", "people"], flip: bool) -> Settings:
    """The Settings of a new gallery. text: as --model has it."""
    model: Any = named.model
    return Settings(
        holds=holds,
        network=named.name,
        # That a file may run code of its author's is for each user to say anew.
        model=shown(resolved(text, "--model")).replace(",trusted=yes", ""),
        fingerprint=model.fingerprint,
        embedding_size=model.embedding_size,
        input=tuple(model.input_hw),
        flip=flip,
        made_by=provenance().model_dump(mode="json"),
    )


def unit_rows(row_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows of length 1, float32; which rows have a direction: the others are zeros).

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]]))[1].tolist()
    [True, False, False]
    """
    finite_B = np.isfinite(row_BD).all(axis=1)
    row_BD = np.where(finite_B[:, None], row_BD, 0).astype(np.float64)
    length_B = np.linalg.norm(row_BD, axis=1)
    good_B = finite_B & (length_B > SHORTEST)
    return np.where(good_B[:, None], row_BD / np.where(good_B, length_B, 1)[:, None], 0).astype(np.float32), good_B


def why_not(pixels: object) -> str:
    """Why a picture has no unit vector; pixels: of it, or the error that says why there are none."""
    return first_line(pixels) if isinstance(pixels, Exception) else NO_DIRECTION
