"""What the report and the terminal show of a network for faces: its accuracy on pairs, its loss and its teacher."""

from rich.table import Table

from zennas.page import number
from zennas.tasks.face.verify import FAR
from zennas.tasks.identity.course import Measure, course
from zennas.tasks.identity.report import (
    NONE,
    RUNNING_OF_CENTRES,
    pct_on_page,
    pct_on_terminal,
    sets_on_page,
    sets_on_terminal,
    summary_line,
    teacher_text,
)
from zennas.tasks.task import Page

ACCURACY = Measure("accuracy", "Accuracy", "accuracy_std", "± a standard deviation over the folds")


def facts(result: dict) -> list[tuple[str, str]]:
    """Of the facts at the top: what was trained on, by which loss and teacher."""
    plan, training = result["plan"], result["training"]
    loss, distill = plan["loss"], plan["distill"]
    sampled = f", {100 * loss['sampling_rate']:g} % of the centres a step" if loss["sampling_rate"] < 1 else ""
    knobs = "".join(f", {name} {value}" for name, value in loss["knobs"].items())
    return [
        ("Data", f"{result['data']}: {training['num_images']:,} images of {training['num_identities']:,} identities"),
        ("Loss", f"{loss['name']}{knobs}{sampled}"),
        ("Teacher", teacher_text(result["teacher"], distill["name"], distill["weight"])),
    ]


def summary(result: dict) -> str:
    """The accuracy on every set, in a line."""
    return summary_line(result["accuracy"], ACCURACY)


def accuracy(result: dict, metrics: list[dict]) -> str:
    """The section of the accuracy."""
    return f"""<h2>Accuracy</h2>
<p>The share of pairs of images that are told right, same person or not, by a threshold chosen on the other folds;
behind ± stands the standard deviation over the folds. TAR is the share of same-person pairs that are accepted where
{100 * FAR:g} % of the pairs of different people are. Every curve begins with the untrained network.</p>
{_accuracy_table(result["accuracy"])}
{course(result, metrics, measure=ACCURACY)}"""


def terminal_table(result: dict) -> Table | None:
    """The accuracies as the terminal shows them; None where there are none."""
    title = f"{result['experiment']}: accuracy, per cent of pairs"
    return sets_on_terminal(title, result["accuracy"], ON_TERMINAL)


COLUMNS = {
    "Pairs": lambda row: f"{row['student']['num_pairs']:,}",
    "Untrained, %": lambda row: pct_on_page(row["untrained"]),
    "Student, %": lambda row: f"<b>{_with_spread(row['student'])}</b>",
    "Teacher, %": lambda row: _with_spread(row["teacher"]),
    "Student − teacher": lambda row: _gap(row["student"], row["teacher"]),
    "TAR, %": lambda row: pct_on_page(row["student"]["tar"]),
    "of teacher, %": lambda row: pct_on_page(row["teacher"] and row["teacher"]["tar"]),
    "Threshold": lambda row: number(row["student"]["threshold"], ".3f"),
}
ON_TERMINAL = {
    "untrained": lambda row: pct_on_terminal(row["untrained"]),
    "student": lambda row: (
        f"{pct_on_terminal(row['student']['accuracy'])} ± {pct_on_terminal(row['student']['accuracy_std'])}"
    ),
    "teacher": lambda row: pct_on_terminal(row["teacher"] and row["teacher"]["accuracy"]),
    "TAR@FAR 1e-3": lambda row: pct_on_terminal(row["student"]["tar"]),
}


def _accuracy_table(accuracy):
    if not accuracy:
        return "<p class='empty'>It was verified on no set of pairs: how well it recognises was not measured.</p>"
    corrupt = {name: row["student"]["num_corrupt"] for name, row in accuracy.items() if row["student"]["num_corrupt"]}
    notes = [f"{name}: {num:,} image(s) cannot be read; their pairs count as unlike" for name, num in corrupt.items()]
    without = [who for who in ("untrained", "teacher") if all(row[who] is None for row in accuracy.values())]
    missing = f"<p class='empty'>Not measured: {', '.join(without)}.</p>" if without else ""
    return sets_on_page(accuracy, COLUMNS, notes) + missing


def _with_spread(judged):
    return f"{pct_on_page(judged['accuracy'])} <i>± {pct_on_page(judged['accuracy_std'])}</i>" if judged else NONE


def _gap(student, teacher):
    return number(100 * (student["accuracy"] - teacher["accuracy"]), "+.2f") if teacher else NONE


MEANING = (
    """<b>An accuracy on few pairs is coarse.</b> Two networks whose accuracies differ by less than the standard
deviation over the folds have not been told apart on that set.""",
    """<b>A TAR rests on very few pairs.</b> At one false accept in 1,000, a set with 3,000 pairs of different people
has its threshold set by three of them.""",
    """<b>The sets are not the challenge.</b> It has pairs of its own, and many more. Who is in a public set may also
be in the training data; this page does not know whether the overlap was taken out.""",
    """<b>The teacher has seen other data,</b> as a rule more of it, and is held to no budget. The distance to it is
what the student gives up, not how well it was taught.""",
    """<b>A falling loss is no accuracy.</b> Margins, scale and the share of sampled centres all move it, so that
losses are comparable within one plan alone; a curricular loss may rise with its t while the network gets
better.""",
)

PAGE = Page(
    facts=facts, accuracy=accuracy, summary=summary, table=terminal_table, running=RUNNING_OF_CENTRES, meaning=MEANING
)
