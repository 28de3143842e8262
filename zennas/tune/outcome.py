"""What a comprehensive search leaves behind: the summary, trials.csv, best.yaml with its labels, the page."""

import io
import pathlib
from typing import Any

import pandas as pd
import yaml

from zennas.data.labels import write_labels
from zennas.data.sources import AnySource
from zennas.flags import line, spell
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.train.options import Options as TrainOptions
from zennas.tune.people import few_pairs
from zennas.tune.proposal import KNOBS, Proposal
from zennas.tune.report import spread, write_report
from zennas.tune.trial import FACTS, TEST, Setting, curve, labels_of, read_json
from zennas.tune.trials import BROKEN, FINISHED, STOPPED, Tried

TRIALS, BEST, LABELS, REPORT = "trials.csv", "best.yaml", "best-labels.npz", "report.html"


def table_of(tried: list[Tried]) -> pd.DataFrame:
    """The trials as a DataFrame: state, reward and TPRs after the last epoch, knobs, backbone, data, seconds, error."""
    rows = []
    for trial in tried:
        facts, known = read_json(trial.folder / FACTS), curve(trial.folder)
        last = known[-1] if known else {}
        candidate = facts.pop("candidate", None)
        numbers = {name: value for name, value in last.items() if name == "reward" or name.startswith("tpr@")}
        rows.append(
            {"trial": trial.number, "state": trial.state, "epochs": last.get("epoch", 0)}
            | numbers
            | {name: trial.proposal.plain.get(name) for name in KNOBS}
            | {"candidate": backbone_text(candidate)}
            | facts
            | {"seconds": last.get("seconds"), "error": trial.error}
        )
    whole = {name: "Int64" for name in ("shape", "macs", "params") if any(name in row for row in rows)}
    return pd.DataFrame(rows).astype(whole)


def summary_of(
    setting: Setting, tried: list[Tried], *, confirmed: tuple[dict[str, Proposal], list[int]] | None = None
) -> dict[str, Any]:
    """What was found, as a plain dict: recipe and best as their trials ended, and what other seeds gave, where
    `confirmed` is ({name: Proposal}, seeds). `best` is the best trial that was run to its end, None where none was."""
    plan = setting.request.tune
    finished = [trial for trial in tried if trial.state == FINISHED]
    best = max(finished, key=lambda trial: curve(trial.folder)[-1]["reward"], default=None)
    recipe = next((trial for trial in finished if trial.number == 0), None)
    counts = {state: sum(trial.state == state for trial in tried) for state in (FINISHED, STOPPED, BROKEN)}
    return {
        "experiment": setting.request.name,
        "trials": len(tried),
        "states": counts,
        "epochs": plan.epochs,
        "reward": plan.reward.model_dump(mode="json"),
        "recipe": _told(setting, recipe),
        "best": _told(setting, best),
        "confirmed": None if confirmed is None else _confirmed(setting, *confirmed),
        "held_out": _group(setting.people.held_out),
        "test": None if setting.people.test is None else _group(setting.people.test),
        "few_pairs": few_pairs(setting.people.held_out, plan.reward),
        "made_by": provenance(seed=plan.seed, command=setting.request.command).model_dump(),
    }


def _group(group):
    same, different = group.num_pairs
    return {
        "num_images": len(group.index_M),
        "num_identities": group.num_identities,
        "same_pairs": same,
        "different_pairs": different,
    }


def _told(setting, trial):
    """A trial of the summary."""
    if trial is None:
        return None
    last = curve(trial.folder)[-1]
    return {
        "trial": trial.number,
        "knobs": trial.proposal.plain,
        **{name: value for name, value in last.items() if name == "reward" or name.startswith("tpr@")},
        **read_json(trial.folder / FACTS),
    }


def _confirmed(setting, proposals, seeds):
    """{"rows": {name: [{"seed", "held_out", "test"}]}, "differences": {name: {"held_out": [...], "test": [...]}}}:
    rewards, and by how much each is above the recipe, the same seed on both sides."""
    rows = {name: [] for name in proposals}
    for name, proposal in proposals.items():
        for seed in seeds:
            folder = setting.folder(proposal, seed)
            if (folder / TEST).is_file():
                test = read_json(folder / TEST).get("reward")
                rows[name].append({"seed": seed, "held_out": curve(folder)[-1]["reward"], "test": test})
    differences = {}
    for name in list(rows)[1:]:
        differences[name] = {}
        for group in ("held_out", "test"):
            values, recipe = (
                {row["seed"]: row[group] for row in rows[key] if row[group] is not None} for key in (name, "recipe")
            )
            differences[name][group] = [values[seed] - recipe[seed] for seed in sorted(values.keys() & recipe.keys())]
    return {"rows": rows, "differences": differences}


def write_outcome(setting: Setting, source: AnySource, tried: list[Tried], summary: dict[str, Any]) -> None:
    """Write trials.csv, best.yaml with its labels, and report.html."""
    out, rows = setting.request.out, table_of(tried)
    with io.StringIO() as text:
        rows.to_csv(text, index=False)
        write_atomically(out / TRIALS, text.getvalue())
    if summary["best"] is not None:
        proposal = Proposal(**summary["best"]["knobs"])
        if _cleans(proposal):
            # All but the test people: those held out served their purpose.
            label_N = source.label_N.copy()
            if setting.people.test is not None:
                label_N[pd.Series(label_N).isin(set(setting.people.test.label_M.tolist()))] = -1
            write_labels(out / LABELS, source, labels_of(setting, proposal, label_N).label_N)
        write_atomically(out / BEST, _best_yaml(setting, summary, proposal))
    curves = {trial.number: [(entry["epoch"], entry["reward"]) for entry in curve(trial.folder)] for trial in tried}
    write_report(out / REPORT, summary, rows, curves)


def next_command(track: str, data: pathlib.Path, out: pathlib.Path, summary: dict[str, Any]) -> str:
    """The command that trains the best one in full."""
    proposal = Proposal(**summary["best"]["knobs"])
    labels = out / LABELS if _cleans(proposal) else None
    train = {"track": track, "winner": out / BEST, "data": data, "labels": labels, "set": proposal.changes}
    return line("zennas.train", spell(TrainOptions, **train))


def _cleans(proposal):
    return proposal.tau_inter is not None or proposal.tau_intra is not None


def _best_yaml(setting, summary, proposal):
    request, best, made_by = setting.request, summary["best"], summary["made_by"]
    head = [
        f"trial {best['trial']} of {made_by['command']}",
        f"zennas {made_by['zennas']}, seed {made_by['seed']}, {made_by['machine']}, {made_by['date']}",
        f"reward {best['reward']:.4f} after {summary['epochs']} epochs"
        + (f"; the recipe as it stands: {summary['recipe']['reward']:.4f}" if summary["recipe"] else ""),
        "It is a candidate for --winner as it is; the rest is for --set and --labels:",
        f"  {next_command(request.asked_track, request.data, request.shown_out, summary)}",
    ]
    content = {"candidate": best["candidate"], "set": list(proposal.changes)}
    if _cleans(proposal):
        content |= {
            "labels": LABELS,
            "thresholds": {key: best["knobs"][key] for key in KNOBS[:2] if key in best["knobs"]},
        }
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, width=120
    )


def confirmation(summary: dict[str, Any]) -> list[str]:
    """Sentences on what the best, and each of its factors alone, give with other seeds; [] where that was not asked."""
    if not summary["confirmed"]:
        return []
    if summary["best"]["trial"] == 0:
        return ["No trial was better than the recipe as it stands."]
    sentences = []
    for name, differences in summary["confirmed"]["differences"].items():
        told = [
            f"{spread(differences[group])} points on {people}"
            for group, people in (
                ("held_out", "the people it was chosen by"),
                ("test", "people nobody had looked at"),
            )
            if differences[group]
        ]
        if told:
            what = "the best" if name == "best" else f"its {name} alone"
            sentences.append(
                f"With {len(differences['held_out'])} other seed(s), {what} against the recipe: {'; '.join(told)}."
            )
    return sentences


def backbone_text(candidate: dict[str, Any] | None) -> str | None:
    """A candidate's plain mapping as people read it."""
    if candidate is None:
        return None
    stages = (f"{width}x{depth}" for width, depth in zip(candidate["widths"], candidate["depths"], strict=True))
    return "-".join([candidate["block"], str(candidate["stem"]), *stages])
