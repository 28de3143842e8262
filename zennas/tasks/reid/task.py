"""REID: the re-identification of people, as a row of TASKS."""

from collections.abc import Sequence

from zennas.checker import track_problems
from zennas.data.lists import files_named
from zennas.tasks.identity.preparing import open_teacher, some_inputs, trained_on
from zennas.tasks.identity.report import taught
from zennas.tasks.reid import preparing
from zennas.tasks.reid.look import look
from zennas.tasks.reid.report import PAGE
from zennas.tasks.reid.verify import MEASURES, PeopleSet, is_gallery_set, judge, judge_teacher, open_set
from zennas.tasks.task import Task


def opened_set(request, text: str) -> PeopleSet:
    """The PeopleSet that a --verify of a training names."""
    return open_set(text)


def announced(request, head, teacher=None) -> dict[str, str]:
    """Lines about batches, losses and teacher, printed before the first step."""
    plan = request.plan
    each = plan.data.images_per_person
    batch = f"{plan.batch // each} people with {each} images each" if each else f"{plan.batch} images of anybody"
    terms = {"softmax": plan.softmax, "triplet": plan.triplet, "centre": plan.centre, "margin": plan.margin}
    told = [
        f"{term.weight:g} x {getattr(term, 'name', name)}{f' {dict(term.knobs)}' if term.knobs else ''}"
        for name, term in terms.items()
        if term is not None
    ]
    loss = f"{head.num_terms} terms: {' + '.join(told)}"
    return {"batch": batch, "loss": loss, "teacher": taught(request, teacher)}


def next_commands(request, sets: Sequence[str] = ()) -> list[list[str]]:
    """Commands that judge, on the sets that it was verified on, what was trained: on those of queries and a gallery,
    as `zennas evaluate` wants them."""
    named = [text for text in sets if is_gallery_set(text)]
    judged = [word for text in named or ("LIST.csv@IMAGES",) for word in ("--set", f"reid:{text}")]
    return [["python", "-m", "zennas.evaluate", "--model", str(request.out), *judged, "--track", request.asked_track]]


REID = Task(
    check_plan=preparing.check_plan,
    taught="distill",
    set_paths=files_named,
    join_set="@".join,
    open_data=preparing.open_data,
    open_teacher=open_teacher,
    open_set=opened_set,
    check_data=preparing.check_data,
    steps_per_epoch=preparing.epoch_steps,
    head=preparing.head,
    stream=preparing.stream,
    some_inputs=some_inputs,
    measures=MEASURES,
    judge=judge,
    judge_teacher=judge_teacher,
    announced=announced,
    problems=track_problems,
    next_commands=next_commands,
    page=PAGE,
    trained_on=trained_on,
    look=look,
)
