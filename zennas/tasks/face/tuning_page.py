"""PAGE: what the page and the terminal say of a comprehensive search for faces."""

from zennas.tasks.identity.tuning_page import group_facts, people_page

TPR = "tpr@"


def tpr_title(name: str) -> str | None:
    """The title of the TPR at an FPR; None for the name of anything else.

    >>> tpr_title("tpr@0.001"), tpr_title("seconds")
    ('TPR@0.001', None)
    """
    return f"TPR@{name.removeprefix(TPR)}" if name.startswith(TPR) else None


def reward(summary: dict) -> str:
    """What the reward is, for the page."""
    fprs = ", ".join(f"{fpr:g}" for fpr in summary["reward"]["fprs"])
    weights = ", ".join(f"{weight:g}" for weight in summary["reward"]["weights"])
    held_out = summary["held_out"]
    return f"""The reward is the TPR at FPR {fprs}, weighted {weights}, over all pairs of {held_out["num_images"]:,}
images of {held_out["num_identities"]:,} people that no trial trains on, after {summary["epochs"]} epochs, in per
cent."""


def facts(summary: dict) -> list[tuple[str, str]]:
    """The pairs of the groups, for the top of the page."""
    return group_facts(
        summary, lambda group: f"{group['same_pairs']:,} pairs of one person, {group['different_pairs']:,} of two"
    )


OF_CLEANING = ("num_merged", "num_dropped")
PAGE = people_page(
    subtitle="Cleaning thresholds, margin loss, depth against width: searched together",
    reward=reward,
    facts=facts,
    notes=lambda summary: summary["few_pairs"],
    knobs={
        "tau_inter": "tau_inter, cosine of two centres",
        "tau_intra": "tau_intra, cosine to the centre",
        "m1": "m1, factor of the angle",
        "m2_rad": "m2, radians",
        "m3": "m3, cosine",
        "s_p": "s_p, scale of the own class",
        "s_n": "s_n, scale of the others",
    },
    counts_of={"tau_inter": OF_CLEANING, "tau_intra": OF_CLEANING},
    meaning=("<b>Thresholds belong to one network's embeddings.</b> Another model's cosines lie elsewhere.",),
)
