"""What the report and the terminal show of a network for faces: its accuracy on pairs, its loss and its teacher."""

import html

from rich.table import Table

from zennas.page import notices, number, table
from zennas.tasks.face.verify import FAR
from zennas.tasks.identity.course import Measure, course
from zennas.tasks.identity.distill import DISTILLATIONS
from zennas.tasks.task import Page

NONE = number(None)
ACCURACY = Measure("accuracy", "Accuracy", "accuracy_std", "± a standard deviation over the folds")
RUNNING = {  # running values of a loss: what they are. One that is not listed is shown by its name alone
    "t": "The running mean of the cosines between faces and their own centres, t, begins at 0 and rises as the network "
    "learns; hard negatives gain weight with it.",
    "mean": "The mean is of the lengths of the embeddings, which stand for the quality of the images.",
    "std": "The deviation (std) is of those lengths.",
}


def facts(result: dict) -> list[tuple[str, str]]:
    """Of the facts at the top: what was trained on, by which loss and teacher."""
    plan, training = result["plan"], result["training"]
    loss, distill = plan["loss"], plan["distill"]
    sampled = f", {100 * loss['sampling_rate']:g} % of the centres a step" if loss["sampling_rate"] < 1 else ""
    weight = DISTILLATIONS[distill["name"]].weight if distill["weight"] is None else distill["weight"]
    teacher = f"{result['teacher']}: {distill['name']}, weight {weight:g}" if result["teacher"] else "none"
    knobs = "".join(f", {name} {value}" for name, value in loss["knobs"].items())
    return [
        ("Data", f"{result['data']}: {training['num_images']:,} images of {training['num_identities']:,} identities"),
        ("Loss", f"{loss['name']}{knobs}{sampled}"),
        ("Teacher", teacher),
    ]


def summary(result: dict) -> str:
    """The accuracy on every set, in a line."""
    return "; ".join(_told(name, row) for name, row in result["accuracy"].items())


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
    if not result["accuracy"]:
        return None
    shown = Table(title=f"{result['experiment']}: accuracy, per cent of pairs", title_justify="left")
    for name in ("set", "untrained", "student", "teacher", "TAR@FAR 1e-3"):
        shown.add_column(name, justify="left" if name == "set" else "right")
    for name, row in result["accuracy"].items():
        student, teacher = row["student"], row["teacher"]
        shown.add_row(
            name,
            f"{100 * row['untrained']:.2f}" if row["untrained"] is not None else "",
            f"{100 * student['accuracy']:.2f} ± {100 * student['accuracy_std']:.2f}",
            f"{100 * teacher['accuracy']:.2f}" if teacher else "",
            f"{100 * student['tar']:.2f}" if student["tar"] is not None else "",
        )
    return shown


def _told(name, row):
    student, before, teacher = row["student"], row["untrained"], row["teacher"]
    text = f"{name} {_share(student['accuracy'])} %"
    beside = [f"untrained {_share(before)} %"] if before is not None else []
    beside += [f"teacher {_share(teacher['accuracy'])} %"] if teacher else []
    return f"{text} ({', '.join(beside)})" if beside else text


def _share(share):
    return number(None if share is None else 100 * share, ".2f")


# of the table of accuracies: what a set's entry has to say; a column that is empty for all sets is left out
COLUMNS = {
    "Pairs": lambda row: f"{row['student']['num_pairs']:,}",
    "Untrained, %": lambda row: _share(row["untrained"]),
    "Student, %": lambda row: f"<b>{_with_spread(row['student'])}</b>",
    "Teacher, %": lambda row: _with_spread(row["teacher"]),
    "Student − teacher": lambda row: _gap(row["student"], row["teacher"]),
    "TAR, %": lambda row: _share(row["student"]["tar"]),
    "of teacher, %": lambda row: _share(row["teacher"] and row["teacher"]["tar"]),
    "Threshold": lambda row: number(row["student"]["threshold"], ".3f"),
}


def _accuracy_table(accuracy):
    if not accuracy:
        return "<p class='empty'>It was verified on no set of pairs: how well it recognises was not measured.</p>"
    cells = {name: [cell(row) for row in accuracy.values()] for name, cell in COLUMNS.items()}
    cells = {name: column for name, column in cells.items() if set(column) != {NONE}}
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for name, row in zip(accuracy, zip(*cells.values(), strict=True), strict=True)
    )
    corrupt = {name: row["student"]["num_corrupt"] for name, row in accuracy.items() if row["student"]["num_corrupt"]}
    notes = [f"{name}: {num:,} image(s) cannot be read; their pairs count as unlike" for name, num in corrupt.items()]
    without = [who for who in ("untrained", "teacher") if all(row[who] is None for row in accuracy.values())]
    missing = f"<p class='empty'>Not measured: {', '.join(without)}.</p>" if without else ""
    return notices(notes, "note") + table(("Set", *cells), rows) + missing


def _with_spread(judged):
    return f"{_share(judged['accuracy'])} <i>± {_share(judged['accuracy_std'])}</i>" if judged else NONE


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

PAGE = Page(facts=facts, accuracy=accuracy, summary=summary, table=terminal_table, running=RUNNING, meaning=MEANING)
