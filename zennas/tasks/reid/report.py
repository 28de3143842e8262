"""What the report and the terminal show of a network for people: its ranked lists in numbers, losses and teacher."""

from rich.table import Table

from zennas.tasks.identity.course import Measure, course
from zennas.tasks.identity.report import (
    RUNNING_OF_CENTRES,
    pct_on_page,
    pct_on_terminal,
    sets_on_page,
    sets_on_terminal,
    summary_line,
    teacher_text,
)
from zennas.tasks.task import Page

MEAN_AP = Measure("mean_ap", "mAP")
TERMS = ("softmax", "triplet", "centre", "margin")
RUNNING = {
    "softmax": "softmax, triplet, centre and margin are the parts of the loss, each without its weight.",
    "active": "Active is the share of the triplets that still pull. Towards 0 they have nothing left to say; 1 all the "
    "time, while farthest_own and nearest_other go to 0, is a collapse: everybody looks alike.",
    "alike": "Alike is the share of the images that lie where another person's lies, as far as their length counts: "
    "0 in a training that goes well, 1 in one that has collapsed.",
    "farthest_own": "farthest_own and nearest_other are mean distances of an image to the farthest one of the same "
    "person in the batch and to the nearest one of another; they part as the network learns.",
    "length": "Length is the mean length of the vectors, beside which a distance is large or small.",
    "left_out": "left_out counts the images that have nobody in the batch to be compared with.",
} | RUNNING_OF_CENTRES


def facts(result: dict) -> list[tuple[str, str]]:
    """Of the facts at the top: what was trained on, by which losses and teacher."""
    plan, training = result["plan"], result["training"]
    distill = plan["distill"]
    return [
        ("Data", f"{result['data']}: {training['num_images']:,} images of {training['num_identities']:,} people"),
        ("Loss", "; ".join(_term(name, plan[name]) for name in TERMS if plan[name] is not None)),
        ("Teacher", teacher_text(result["teacher"], distill["name"], distill["weight"])),
    ]


def _term(name, term):
    knobs = "".join(f", {knob} {value}" for knob, value in term["knobs"].items())
    where = f" on {', '.join(term['vectors'])}" if "vectors" in term else ""
    return f"{term['weight']:g} x {term.get('name', name)}{knobs}{where}"


def summary(result: dict) -> str:
    """The mAP on every set, in a line."""
    return summary_line(result["accuracy"], MEAN_AP, word="mAP")


def accuracy(result: dict, metrics: list[dict]) -> str:
    """The section of the ranked lists."""
    return f"""<h2>Ranked lists</h2>
<p>Each query ranks the gallery by its cosine, mirrored images added. mAP is the mean over the queries of their average
precision, rank k the share of them with a right answer among the first k. Images of the query's person by its own
camera are passed over where cameras are known. Every curve begins with the untrained network.</p>
{_table(result["accuracy"])}
{course(result, metrics, measure=MEAN_AP)}"""


def terminal_table(result: dict) -> Table | None:
    """The figures as the terminal shows them; None where there are none."""
    return sets_on_terminal(f"{result['experiment']}: ranked lists, per cent", result["accuracy"], ON_TERMINAL)


COLUMNS = {
    "Queries": lambda row: f"{row['student']['num_queries'] - row['student']['num_unanswerable']:,}",
    "Untrained mAP, %": lambda row: pct_on_page(row["untrained"]),
    "mAP, %": lambda row: f"<b>{pct_on_page(row['student']['mean_ap'])}</b>",
    "Rank 1, %": lambda row: pct_on_page(row["student"]["rank_1"]),
    "Rank 5, %": lambda row: pct_on_page(row["student"]["rank_5"]),
    "Rank 10, %": lambda row: pct_on_page(row["student"]["rank_10"]),
    "Teacher's mAP, %": lambda row: pct_on_page(row["teacher"] and row["teacher"]["mean_ap"]),
    "Teacher's rank 1, %": lambda row: pct_on_page(row["teacher"] and row["teacher"]["rank_1"]),
}
ON_TERMINAL = {
    "untrained mAP": lambda row: pct_on_terminal(row["untrained"]),
    "mAP": lambda row: pct_on_terminal(row["student"]["mean_ap"]),
    "rank 1": lambda row: pct_on_terminal(row["student"]["rank_1"]),
    "rank 5": lambda row: pct_on_terminal(row["student"]["rank_5"]),
    "teacher's mAP": lambda row: pct_on_terminal(row["teacher"] and row["teacher"]["mean_ap"]),
}


def _table(accuracy):
    if not accuracy:
        return "<p class='empty'>It was verified on no set of queries: how well it finds people was not measured.</p>"
    notes = []
    for name, row in accuracy.items():
        if num := row["student"]["num_corrupt"]:
            notes.append(f"{name}: {num:,} image(s) cannot be read, and are like nobody")
        if num := row["student"]["num_unanswerable"]:
            notes.append(f"{name}: {num:,} query(s) without a right answer in the gallery are in no mean")
    return sets_on_page(accuracy, COLUMNS, notes)


MEANING = (
    """<b>Figures of two sets are not comparable.</b> A gallery with more images, people or cameras is harder, whoever
is asked for.""",
    """<b>Few queries are coarse.</b> With 200 of them, one query more at rank 1 is half a point.""",
    """<b>Who is asked for may have been trained on.</b> Published sets keep them apart; this page does not know whether
people or images of a set also stand in the training data.""",
    """<b>Another place is another thing.</b> A network that finds nine of ten where it was trained may find half of
them by other cameras: judge it on a set of the place where it will work.""",
    """<b>Ranks say nothing of thresholds.</b> Cosines of strangers may crowd near 1 while the order is right.""",
    """<b>The mirrored image doubles the time.</b> What a latency here is of sees each image once.""",
)

PAGE = Page(facts=facts, accuracy=accuracy, summary=summary, table=terminal_table, running=RUNNING, meaning=MEANING)
