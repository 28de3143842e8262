"""FACE: the recognition of faces, as a row of TASKS."""

from collections.abc import Sequence

from zennas.checker import track_problems
from zennas.data.lists import files_named
from zennas.tasks.face import preparing
from zennas.tasks.face.pairs import PairSet
from zennas.tasks.face.report import PAGE
from zennas.tasks.face.verify import MEASURES, judge, judge_teacher, open_set
from zennas.tasks.identity.preparing import open_teacher, some_inputs, trained_on
from zennas.tasks.identity.report import taught
from zennas.tasks.task import Task


def opened_set(request, text: str) -> PairSet:
    """The PairSet that a --verify of a training names."""
    return open_set(text, faces=request.faces)


def announced(request, head, teacher=None) -> dict[str, str]:
    """Lines about masks, loss and teacher, printed before the first step."""
    plan = request.plan
    sampled = f", {100 * plan.loss.sampling_rate:g} % of the centres a step" if plan.loss.sampling_rate < 1 else ""
    return {
        "masks": f"{plan.data.mask.ratio:.0%} of the faces, others in every epoch" if plan.data.mask else "none",
        "loss": f"{plan.loss.name} {head.classifier.knobs}{sampled}",
        "teacher": taught(request, teacher),
    }


def next_commands(request, sets: Sequence[str] = ()) -> list[list[str]]:
    """Commands that judge, on the sets that it was verified on, and submit what was trained."""
    judged = [word for text in sets or ("lfw.bin",) for word in ("--set", text)]
    track = ["--track", request.asked_track]
    # What a track of whole systems asks for beside the network.
    needed = ["--detector", "YUNET.onnx", "--images", "PHOTOGRAPHS"] if request.track.budget.of_a_system else []
    return [
        ["python", "-m", "zennas.evaluate", "--model", str(request.out), *judged, *track],
        ["python", "-m", "zennas.submit", *track, "--model", str(request.out), *needed],
    ]


FACE = Task(
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
    look=preparing.look,
    finds_crops=True,
)
