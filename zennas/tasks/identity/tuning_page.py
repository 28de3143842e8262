"""What the page of a search of recipes says wherever trials are judged by people whom none of them trains on."""

import functools
from collections.abc import Callable

from zennas.tasks.tuning import TuningPage

# A TuningPage with the words on these people.
people_page = functools.partial(
    TuningPage,
    counts=("num_images", "num_identities"),
    chosen_by="the people it was chosen by",
    unseen="people nobody had looked at",
    unchosen="people by whom nothing was chosen",
    tested="The people of the test were asked when the search was over; nothing was chosen by them.",
)


def group_facts(summary: dict, text_of: Callable[[dict], str]) -> list[tuple[str, str]]:
    """How much the groups are, for the top of the page. text_of: the counts of one, in words."""
    groups = {"Reward on": summary["held_out"], "Test on": summary["test"]}
    return [(name, text_of(group)) for name, group in groups.items() if group]
