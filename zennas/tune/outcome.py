"""What a comprehensive search leaves behind: the summary, trials.csv, best.yaml and what belongs to it, the page."""

import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import yaml

from zennas.flags import line, spell, spelled
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.tasks.tuning import Tuning
from zennas.train.options import Options as TrainOptions
from zennas.trials.trial import FACTS, REWARD, TEST, curve, numbers_of, read_json
from zennas.tune.proposal import SHAPE, Proposal, knobs_of
from zennas.tune.report import spread, write_report
from zennas.tune.trial import Setting
from zennas.tune.trials import BROKEN, FINISHED, STOPPED, Tried

TRIALS, BEST, REPORT = "trials.csv", "best.yaml", "report.html"


def table_of(setting: Setting, tried: list[Tried]) -> pd.DataFrame:
    """The trials as a DataFrame: state, reward and the numbers beside it after the last epoch, knobs, backbone, data,
    seconds, error."""
    rows, knobs = [], knobs_of(setting.request.tune)
    for trial in tried:
        facts, known = read_json(trial.folder / FACTS), curve(trial.folder)
        last = known[-1] if known else {}
        candidate = facts.pop("candidate", None)
        rows.append(
            {"trial": trial.number, "state": trial.state, "epochs": last.get("epoch", 0)}
            | numbers_of(last, setting.tuning.title)
            | {name: trial.proposal.plain.get(name) for name in knobs}
            | {"candidate": backbone_text(candidate)}
            | facts
            | {"seconds": last.get("seconds"), "error": trial.error}
        )
    whole = {name: "Int64" for name in (SHAPE, "macs", "params") if any(name in row for row in rows)}
    return pd.DataFrame(rows).astype(whole)


def summary_of(
    setting: Setting, source: Any, tried: list[Tried], *, confirmed: tuple[dict[str, Proposal], list[int]] | None = None
) -> dict[str, Any]:
    """What was found, as a plain dict: recipe and best as their trials ended, and what other seeds gave, where
    `confirmed` is ({name: Proposal}, seeds). `best` is the best trial that was run to its end, None where none was."""
    plan, tuning = setting.request.tune, setting.tuning
    finished = [trial for trial in tried if trial.state == FINISHED]
    best = max(finished, key=lambda trial: curve(trial.folder)[-1][REWARD], default=None)
    recipe = next((trial for trial in finished if trial.number == 0), None)
    counts = {state: sum(trial.state == state for trial in tried) for state in (FINISHED, STOPPED, BROKEN)}
    return {
        "experiment": setting.request.name,
        "trials": len(tried),
        "states": counts,
        "epochs": plan.epochs,
        "reward": tuning.reward(plan),
        "recipe": _told(setting, recipe),
        "best": _told(setting, best),
        "confirmed": None if confirmed is None else _confirmed(setting, *confirmed),
        **tuning.described(plan, setting.groups),
        "data_notices": list(source.notices),
        "made_by": provenance(seed=plan.seed, command=setting.request.command).model_dump(),
    }


def _told(setting, trial):
    """A trial of the summary."""
    if trial is None:
        return None
    last = curve(trial.folder)[-1]
    return {
        "trial": trial.number,
        "knobs": trial.proposal.plain,
        **numbers_of(last, setting.tuning.title),
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
                test = read_json(folder / TEST).get(REWARD)
                rows[name].append({"seed": seed, "held_out": curve(folder)[-1][REWARD], "test": test})
    differences = {}
    for name in list(rows)[1:]:
        differences[name] = {}
        for group in ("held_out", "test"):
            values, recipe = (
                {row["seed"]: row[group] for row in rows[key] if row[group] is not None} for key in (name, "recipe")
            )
            differences[name][group] = [values[seed] - recipe[seed] for seed in sorted(values.keys() & recipe.keys())]
    return {"rows": rows, "differences": differences}


def write_outcome(setting: Setting, source: Any, tried: list[Tried], summary: dict[str, Any]) -> None:
    """Write trials.csv, best.yaml with the files that belong to it, and report.html. source: the task's."""
    request, tuning = setting.request, setting.tuning
    out, rows = request.out, table_of(setting, tried)
    with io.StringIO() as text:
        rows.to_csv(text, index=False)
        write_atomically(out / TRIALS, text.getvalue())
    if summary["best"] is not None:
        tuning.write_best(request, source, setting.groups, setting.prepared, summary["best"]["knobs"])
        write_atomically(out / BEST, _best_yaml(request, summary, tuning))
    curves = {trial.number: [(entry["epoch"], entry[REWARD]) for entry in curve(trial.folder)] for trial in tried}
    write_report(out / REPORT, summary, rows, curves, tuning)


def next_command(asked: Mapping[str, Any], out: pathlib.Path, summary: dict[str, Any], tuning: Tuning) -> str:
    """The command that trains the best one in full. asked: request.handed_on."""
    knobs = summary["best"]["knobs"]
    files = {option: out / name for option, name in tuning.best(knobs).files.items()}
    train = {**asked, "winner": out / BEST, **files, "set": best_changes(asked["set"], knobs, tuning)}
    return line("zennas.train", spell(TrainOptions, **train))


def best_changes(given: Iterable[str], knobs: Mapping[str, Any], tuning: Tuning) -> list[str]:
    """KEY=VALUE of the best one: what the user `given` of the recipe, but for the keys that it has otherwise, and its
    own."""
    own = tuning.changes(dict(knobs))
    keys = {change.partition("=")[0] for change in own}
    return [*(change for change in given if change.partition("=")[0] not in keys), *own]


def _best_yaml(request, summary, tuning):
    best, made_by = summary["best"], summary["made_by"]
    rest = " and ".join(map(spelled, ("set", *tuning.handed_on)))
    head = [
        f"trial {best['trial']} of {made_by['command']}",
        f"zennas {made_by['zennas']}, seed {made_by['seed']}, {made_by['machine']}, {made_by['date']}",
        f"reward {best['reward']:.4f} after {summary['epochs']} epochs"
        + (f"; the recipe as it stands: {summary['recipe']['reward']:.4f}" if summary["recipe"] else ""),
        f"It is a candidate for --winner as it is; the rest is for {rest}:",
        f"  {next_command(request.asked, request.shown_out, summary, tuning)}",
    ]
    content = {
        "candidate": best["candidate"],
        "set": best_changes(request.asked["set"], best["knobs"], tuning),
    }
    content |= tuning.best(best["knobs"]).content
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, width=120
    )


def confirmation(summary: dict[str, Any], tuning: Tuning) -> list[str]:
    """Sentences on what the best, and each of its factors alone, give with other seeds; [] where that was not asked."""
    if not summary["confirmed"]:
        return []
    if summary["best"]["trial"] == 0:
        return ["No trial was better than the recipe as it stands."]
    sentences, page, unit = [], tuning.page, tuning.unit
    for name, differences in summary["confirmed"]["differences"].items():
        told = [
            f"{spread(differences[group], times=unit.times)} {unit.differences} on {who}"
            for group, who in (("held_out", page.chosen_by), ("test", page.unseen))
            if differences[group]
        ]
        if told:
            what = "the best" if name == "best" else f"its {name} alone"
            sentences.append(
                f"With {len(differences['held_out'])} other seed(s), {what} against the recipe: {'; '.join(told)}."
            )
    return sentences


def backbone_text(candidate: dict[str, Any] | None) -> str | None:
    """A candidate's plain mapping in a line, for readers."""
    if candidate is None:
        return None
    stages = (f"{width}x{depth}" for width, depth in zip(candidate["widths"], candidate["depths"], strict=True))
    return "-".join([candidate["block"], str(candidate["stem"]), *stages])
