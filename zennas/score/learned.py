"""The learned score of a search, and the prior by which the first candidates are chosen that it is learned from.

`zennas learn` writes a LearnedScore (zennas/space/learned.py); `--score learned:OUT` maximises it.
"""

# N candidates, G genes

import json
import pathlib
from typing import Any

import numpy as np

from zennas.records import UserError
from zennas.space.learned import LEARNED, LearnedScore
from zennas.space.parts import Sums, sums_of_genes
from zennas.space.space import Space

MODEL = "model.json"  # in the folder that `zennas learn` writes


def named_score(name: str) -> dict[str, Any]:
    """What a --score says of a ScorePlan: a row of SCORES, or learned:OUT with its model. UserError where OUT holds
    none."""
    kind, colon, folder = name.partition(":")
    if kind != LEARNED:
        return {"name": name, "learned": None}
    if not colon or not folder:
        raise UserError(f"--score {name}: of what? Give {LEARNED}:OUT, the folder that zennas learn wrote")
    return {"name": LEARNED, "learned": load_learned(folder)}


def load_learned(folder: pathlib.Path | str) -> LearnedScore:
    """The LearnedScore that `zennas learn` left in a folder. UserError where there is none, or it is damaged."""
    path = pathlib.Path(folder) / MODEL
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--score {LEARNED}:{folder}: {MODEL} cannot be read: {error.strerror or error}; it is made by: "
            "python -m zennas.learn --track TRACK --data DATA --out OUT"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {error}") from None
    return LearnedScore.parse(values, path)


def width_prior_sums(space: Space) -> Sums:
    """The Sums of the prior S: the sum over the stages of ln width, each stage once.

    On most tables of networks of equal cost the wider stages are the better ones; where they are not, the line learns
    it. It may order candidates; maximised, it runs to one block a stage.
    """
    is_width = set(space.layout.widths)
    terms = [
        np.log(np.array(span.values(), float)) * (place in is_width) for place, span in enumerate(space.genes.values())
    ]
    return sums_of_genes(space, terms)


def width_prior(genes_NG: np.ndarray, space: Space) -> np.ndarray:
    """prior_N of candidates by their genes: as `width_prior_sums`."""
    return np.log(np.asarray(genes_NG, float)[:, list(space.layout.widths)]).sum(1)
