"""TUNING: what a comprehensive search asks of the recognition of faces: thresholds that clean, the margin loss, the
reward on people held out.

N images of the source
"""

import pathlib
from typing import Any

import numpy as np

from zennas.clean.centres import unit_rows
from zennas.data.labels import DROPPED, write_labels
from zennas.data.sources import AnySource
from zennas.embed.embeddings import of_source, sidecar_of
from zennas.embed.model import Model, usable_device
from zennas.embed.named import open_named
from zennas.records import UserError
from zennas.tasks.face.cleaning import CleanLabels, clean_labels
from zennas.tasks.face.people import open_images, rewards
from zennas.tasks.face.tune_plan import FaceTunePlan
from zennas.tasks.face.tuning_page import PAGE, tpr_title
from zennas.tasks.identity.embedding import in_eval
from zennas.tasks.identity.people import Group, People, few_pairs, listed, split
from zennas.tasks.identity.trained import counted
from zennas.tasks.tuning import Best, Trained, Tuning

LOSS = "unified_margin"
THRESHOLDS, MARGIN = (FaceTunePlan.FACTORS[factor] for factor in ("cleaning", "margin"))
LABELS, BEST_LABELS = "labels.npz", "best-labels.npz"


def check(options, plan: FaceTunePlan, recipe) -> None:
    """UserError for thresholds without a network that embeds, and for such a network without thresholds."""
    if plan.cleaning is not None and options.embeddings_from is None:
        raise UserError(
            "tune.cleaning asks how alike images are: give --embeddings-from MODEL, or leave it out with "
            "--only margin --only backbone"
        )
    if plan.cleaning is None and options.embeddings_from is not None:
        raise UserError(
            f"--embeddings-from {options.embeddings_from}: is for tune.cleaning, which is not searched here"
        )


def recipe(plan) -> str:
    """The loss of a FacePlan, in words."""
    return f"loss {plan.loss.name} {dict(plan.loss.knobs)}"


def changes(knobs: dict[str, float]) -> tuple[str, ...]:
    """KEY=VALUE of a FacePlan.

    >>> changes({"tau_intra": 0.2, "m1": 1.0, "m2_rad": 0.3, "m3": 0.0, "s_p": 32.0, "s_n": 32.0})
    ('loss.name=unified_margin', 'loss.knobs={m1: 1.0, m2_rad: 0.3, m3: 0.0, s_p: 32.0, s_n: 32.0}')
    """
    margin = [f"{name}: {knobs[name]!r}" for name in MARGIN if name in knobs]
    return (f"loss.name={LOSS}", f"loss.knobs={{{', '.join(margin)}}}") if margin else ()


def split_people(request, source: AnySource) -> People:
    """The People of a search: those of --held-out and --test, or shares that its seed draws."""
    plan = request.tune
    return split(source, plan.reward, seed=plan.seed, held_out=request.held_out, test=request.test)


def open_model(request) -> Model | None:
    """The Model of --embeddings-from, or None."""
    if request.embeddings_from is None:
        return None
    return open_named(request.embeddings_from, device=usable_device(request.device), option="--embeddings-from").model


def settings(source: AnySource, people: People, model: Model | None) -> dict[str, Any]:
    """The data, who is in which group, and by what it is cleaned."""
    cleaned_by = model and model.fingerprint
    return {"data": source.images.fingerprint, "embeddings_from": cleaned_by} | listed(people)


def embeddings(request, source: AnySource, model: Model | None, progress) -> pathlib.Path | None:
    """The path of the embeddings of all images, an .npy; None without a model."""
    if model is None:
        return None
    progress.begin(f"embedding {source.num_images:,} images by {request.embeddings_from}")
    path = of_source(model, source, dtype=np.float32, progress=progress.counting("images"))
    progress.end()
    return path


def trained(
    request, source: AnySource, people: People, prepared: pathlib.Path | None, knobs: dict[str, float], folder
) -> Trained:
    """The labels of a trial: those that its thresholds leave of the people who may be trained on."""
    clean = labels_of(prepared, knobs, people.label_N)
    labels = folder / LABELS
    write_labels(labels, source, clean.label_N)
    return Trained({"labels": labels}, {"num_merged": clean.num_merged, "num_dropped": clean.num_dropped})


def labels_of(embeddings: pathlib.Path | None, knobs: dict[str, float], label_N: np.ndarray) -> CleanLabels:
    """The CleanLabels of these images by the thresholds among the knobs. embeddings: .npy of all images of the source;
    UserError where thresholds ask about them and they are not there."""
    thresholds = {name: knobs[name] for name in THRESHOLDS if name in knobs}
    if not thresholds:
        return clean_labels(None, label_N)
    assert embeddings is not None, thresholds
    if not sidecar_of(embeddings).is_file():
        raise UserError(f"{embeddings}: the embeddings that thresholds ask about are not there")
    return clean_labels(unit_rows(np.load(embeddings, mmap_mode="r")), label_N, **thresholds)


def judge(request, source: AnySource, network, group: Group, *, device, autocast=None) -> dict[str, float]:
    """The reward on these people, and the TPRs that it is made of."""
    embed_batch = in_eval(network, device, autocast=autocast)
    return rewards(group, source, embed_batch, request.tune.reward, image_px=request.space.shape.hw)


def described(plan: FaceTunePlan, people: People) -> dict[str, Any]:
    """How many images, people and pairs there are in each group, and what they cannot tell."""
    return {
        "held_out": people.held_out.counts,
        "test": None if people.test is None else people.test.counts,
        "few_pairs": few_pairs(people.held_out, plan.reward.fprs),
    }


def announced(request, people: People) -> dict[str, str]:
    """Lines on who is in which group."""
    plan = request.tune.reward
    fprs, weights = (", ".join(f"{value:g}" for value in values) for values in (plan.fprs, plan.weights))
    return {
        "train": f"{counted(people.label_N)} of {request.data}",
        "reward": f"{people.held_out.text}: TPR at FPR {fprs}, weighted {weights}",
        "test": "nobody" if people.test is None else f"{people.test.text}, when the search is over",
    }


def best(knobs: dict[str, float]) -> Best:
    """The thresholds, and the labels that they leave; nothing where they do not clean."""
    thresholds = {name: knobs[name] for name in THRESHOLDS if name in knobs}
    if not thresholds:
        return Best({}, {})
    return Best({"labels": BEST_LABELS, "thresholds": thresholds}, {"labels": BEST_LABELS})


def write_best(
    request, source: AnySource, people: People, prepared: pathlib.Path | None, knobs: dict[str, float]
) -> None:
    """Write the labels of the best one, of all but the test people: those held out served their purpose."""
    if not best(knobs).files:
        return
    label_N = source.label_N.copy()
    if people.test is not None:
        label_N[np.isin(label_N, people.test.label_M)] = DROPPED
    write_labels(request.out / BEST_LABELS, source, labels_of(prepared, knobs, label_N).label_N)


TUNING = Tuning(
    check=check,
    recipe=recipe,
    changes=changes,
    open_source=open_images,
    split=split_people,
    open_model=open_model,
    settings=settings,
    prepare=embeddings,
    trained=trained,
    judge=judge,
    title=tpr_title,
    reward=lambda plan: plan.reward.model_dump(mode="json"),
    described=described,
    announced=announced,
    handed_on=("labels",),
    best=best,
    write_best=write_best,
    page=PAGE,
    moved={name: "zennas.tasks.identity.people" for name in ("zennas.tune.people", "zennas.tasks.face.people")},
)
