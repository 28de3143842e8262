"""What `zennas submit` prints."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.submit.options import Options
from zennas.submit.run import Submitted

REFUSED = 1
STYLES = {"kept": "green", "broken": "bold red", "noted": "yellow", "not judged here": "cyan"}


def show(submitted: Submitted, options: Options, console: Console) -> int:
    """Print every rule with its verdict; 1 where the challenge would refuse it."""
    _print(submitted, console)
    return 0 if submitted.submission.accepted else REFUSED


def _print(submitted: Submitted, console: Console) -> None:
    """The rules as a table, what there is to say of them, where the zip lies,
    and the rules that are the user's to keep.
    """
    submission, folder = submitted.submission, submitted.folder
    table = Table(title=f"{submission.track}: {submission.model}", title_justify="left")
    for column in ("rule", "measured", "limit", "verdict"):
        table.add_column(column, overflow="fold")
    for rule in submission.rules:
        table.add_row(*map(Text, (rule.name, rule.measured, rule.limit)), Text(rule.verdict, STYLES[rule.verdict]))
    console.print(table)
    for rule in submission.rules:
        if rule.said:
            style = STYLES[rule.verdict] if rule.verdict != "kept" else ""
            console.print(Text(f"{rule.name}: {rule.said}", style), soft_wrap=True)
    console.print("\nYours to keep, for no program sees it:")
    for duty in submission.yours:
        console.print(Text(f"  - {duty}"), soft_wrap=True)
    counts = {verdict: sum(rule.verdict == verdict for rule in submission.rules) for verdict in STYLES}
    names = ", ".join(rule.name for rule in submission.rules if rule.verdict == "not judged here")
    unjudged = f"; not judged here: {names}" if names else ""
    if submission.accepted:
        verdict = Text(f"\nAccepted: {counts['kept']} rules are kept, none is broken{unjudged}.", "green")
    else:
        verdict = Text(
            f"\nRefused: {counts['broken']} of {len(submission.rules)} rules are broken{unjudged}.", "bold red"
        )
    console.print(verdict, soft_wrap=True)
    no_zip = "no zip is written (--anyway writes one)"
    console.print(Text(f"  {submitted.zip or no_zip}\n  {folder / 'submission.json'}"), soft_wrap=True)
