"""What a learning run leaves behind: the model, the table of trainings, the page; and what can be believed of it."""

import io
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import yaml

from zennas.learn.choosing import BY_INTERVAL, BY_PRIOR, FILLS
from zennas.learn.comparison import LEARNED, Device, Rival, rivals
from zennas.learn.model import Fitted, Noise, Order, fit, left_out, noise_of, order_of
from zennas.learn.report import write_report
from zennas.learn.request import Request
from zennas.learn.trainings import check_enough
from zennas.learn_plan import LEAST_TRAINED
from zennas.provenance import Provenance, provenance
from zennas.records import Record
from zennas.run_folder import write_atomically
from zennas.score.learned import MODEL
from zennas.search.measured import Measured
from zennas.space.candidate import Candidate
from zennas.space.learned import REGION, LearnedScore
from zennas.space.space import Space
from zennas.tasks.table import FIRST, learning_of
from zennas.trials.engine import Outcome
from zennas.trials.trial import REWARD

TRAININGS, REPORT, WINNER = "trainings.csv", "report.html", "winner.yaml"
FEW = 8  # trainings: below, an order of 7 genes was worth a tau of 0.4 +- 0.2 on 44 trained networks


class LearnedRow(Record):
    """One trained candidate: what was measured of it, and what the line says."""

    text: str
    candidate: Candidate
    measured_ms: float
    chosen: str  # FILLS, BY_PRIOR or BY_INTERVAL
    rewards: dict[int, float]  # seed -> the measure after the last epoch, in units of `Learned.unit`
    expected: float | None = None  # by the line through all
    left_out: float | None = None  # expected by the line through all others
    zen: float = math.nan  # its Zen-Score
    seconds: float = 0.0  # of its trainings
    error: str | None = None

    @property
    def reward(self) -> float:
        """The mean over its seeds; NaN where none ran to its end."""
        return float(np.mean(list(self.rewards.values()))) if self.rewards else math.nan


class Learned(Record):
    """What `learn` returns: what was learned, the same as run.json keeps, and where it lies."""

    experiment: str
    task: str = FIRST
    measure: str  # "AUC"
    unit: str  # "%", or ""
    budget_ms: float
    epochs: int
    score: LearnedScore
    noise: Noise | None  # None where nothing was trained twice
    rows: tuple[LearnedRow, ...]
    rivals: tuple[Rival, ...]
    missing: dict[str, str] = {}  # {name of a rival that there is not: why}
    described: dict[str, Any]  # of the task: who was trained on and judged on
    made_by: Provenance
    out: pathlib.Path = pydantic.Field(pathlib.Path(), exclude=True)

    @property
    def trained(self) -> list[LearnedRow]:
        """The rows that were trained to the end, best first."""
        return sorted((row for row in self.rows if row.rewards), key=lambda row: -row.reward)

    @property
    def tells_nothing(self) -> bool:
        """Whether seeds differ as much as candidates."""
        return self.noise is not None and self.noise.tells_nothing

    @property
    def winner(self) -> Rival | None:
        """The best network that the line expects within the budget."""
        return next((rival for rival in self.rivals if rival.name == LEARNED), None)

    @property
    def verdict(self) -> str:
        """One sentence on what can be believed."""
        return verdict(self.score, self.noise, self.epochs)

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return self.model_dump(mode="json")


def verdict(score: LearnedScore, noise: Noise | None, epochs: int) -> str:
    """One sentence on what can be believed of a learned order."""
    num = score.num_trained
    if noise is not None and noise.tells_nothing:
        return (
            f"Nothing can be told yet: two trainings of one candidate differ as much as two candidates (reliability "
            f"{noise.reliability:.2f}). Longer trainings (--epochs {2 * epochs}), or more to judge on (--held-out), "
            "would tell more."
        )
    if num < FEW:
        return (
            f"{num} trainings are few: on networks whose order is known, an order learned from so many agrees with it "
            "with a tau of about 0.4 ± 0.2, little more than guessing; 12 or more (--trainings) make it dependable."
        )
    if score.tau is None or score.tau_low is None or score.tau_low <= 0:
        return (
            f"The order is not told from chance yet (tau {score.tau_text}, each trained candidate predicted from the "
            "others). More trainings, or longer ones, would tell."
        )
    return (
        f"Of two candidates like these, the learned order puts the better one first about "
        f"{100 * (1 + score.tau) / 2:.0f} times in 100 (tau {score.tau_text}, each predicted from the others). It is "
        "not believed outside what was trained."
    )


def learned_of(
    request: Request,
    pool: Sequence[Measured],
    outcomes: dict[str, Outcome],
    *,
    device: Device,
    groups: Any,
) -> Learned:
    """The Learned of trainings that are over. UserError where too few ran to their end."""
    plan, learning = request.learn, learning_of(request.task)
    rows = rows_of(request, pool, outcomes, times=learning.unit.times)
    trained = [row for row in rows if row.rewards]
    check_enough(len(trained), [row.error for row in rows if row.error])
    feature_NF = np.log(np.array([row.candidate.genes for row in trained], float))
    reward_N = np.array([row.reward for row in trained])
    line = fit(feature_NF, reward_N)
    left_out_N = left_out(feature_NF, reward_N) if len(trained) > LEAST_TRAINED else None
    order = None if left_out_N is None else order_of(left_out_N, reward_N)
    least_share = min(1.0, min(row.measured_ms for row in trained) / device.budget_ms)
    score = score_of(
        request.space,
        line,
        order,
        [row.candidate for row in trained],
        least_share=least_share,
        measure=learning.measure(plan),
        unit=learning.unit.sign,
    )
    found, missing = rivals(device, score)
    expected_N, _ = line.predict(feature_NF)
    predicted = {row.text: {"expected": float(expected)} for row, expected in zip(trained, expected_N, strict=True)}
    for row, value in zip(trained, [] if left_out_N is None else left_out_N.tolist(), strict=False):
        predicted[row.text]["left_out"] = value
    return Learned(
        experiment=request.name,
        task=request.task,
        measure=learning.measure(plan),
        unit=learning.unit.sign,
        budget_ms=device.budget_ms,
        epochs=plan.epochs,
        score=score,
        noise=_noise(trained, plan.seed),
        rows=tuple(row.model_copy(update=predicted.get(row.text, {})) for row in rows),
        rivals=tuple(found),
        missing=missing,
        described=learning.described(plan, groups),
        made_by=provenance(seed=plan.seed, command=request.command),
        out=request.shown_out,
    )


def _noise(trained, seed):
    """The Noise of rows, some of them trained with the next seed as well; None where none was."""
    twice = [(row.rewards[seed], row.rewards[seed + 1]) for row in trained if len(row.rewards) > 1]
    return noise_of(np.array([row.rewards[seed] for row in trained if seed in row.rewards]), twice)


def rows_of(
    request: Request, pool: Sequence[Measured], outcomes: dict[str, Outcome], *, times: float
) -> list[LearnedRow]:
    """A LearnedRow for every candidate that was begun, in the order of the trainings."""
    plan = request.learn
    entries = {entry.key: entry for entry in pool}
    by_candidate: dict[str, dict[str, Any]] = {}
    for outcome in outcomes.values():
        candidate, seed = Candidate(**outcome.job.values["candidate"]), outcome.job.values["seed"]
        row = by_candidate.setdefault(candidate.key, {"rewards": {}, "seconds": 0.0, "error": None})
        row["seconds"] += outcome.numbers.get("seconds", 0.0)
        if outcome.error is None:
            row["rewards"][seed] = times * outcome.numbers[REWARD]
        else:
            row["error"] = outcome.error
    num_filling = plan.first - plan.num_by_prior
    rows = []
    for place, (key, row) in enumerate(by_candidate.items()):
        if (entry := entries.get(key)) is None:  # measured by an earlier start, and no more of the pool
            continue
        chosen = FILLS if place < num_filling else BY_PRIOR if place < plan.first else BY_INTERVAL
        rows.append(
            LearnedRow(
                text=entry.candidate.text,
                candidate=entry.candidate,
                measured_ms=entry.latency.measured_ms,
                chosen=chosen,
                zen=entry.score_mean,
                **row,
            )
        )
    return rows


def score_of(
    space: Space,
    line: Fitted,
    order: Order | None,
    trained: Sequence[Candidate],
    *,
    least_share: float,
    measure: str,
    unit: str,
) -> LearnedScore:
    """The LearnedScore of a line: its coefficients per e-fold of a gene. order: of `left_out`, None where too few were
    trained; least_share: what the fastest of the trained takes of the budget."""
    genes_NG = np.array([candidate.genes for candidate in trained])
    tau, low, high = (None if math.isnan(value) else round(value, 4) for value in order or (math.nan,) * 3)
    return LearnedScore(
        kind=space.kind,
        measure=measure,
        unit=unit,
        genes=space.layout.names,
        lowest=tuple(map(int, genes_NG.min(0))),
        highest=tuple(map(int, genes_NG.max(0))),
        centre=tuple(map(float, line.centre_F)),
        scale=tuple(map(float, line.scale_F)),
        intercept=line.intercept,
        coefficients=tuple(map(float, line.coefficient_F / line.scale_F)),
        covariance=tuple(tuple(map(float, row)) for row in line.covariance_FF / np.outer(line.scale_F, line.scale_F)),
        radius=line.radius,
        least_share=least_share,
        num_trained=len(trained),
        tau=tau,
        tau_low=low,
        tau_high=high,
    )


def table_of(learned: Learned) -> pd.DataFrame:
    """The trained candidates as a DataFrame."""
    rows = []
    for row in learned.rows:
        genes = dict(zip(learned.score.genes, row.candidate.genes, strict=True))
        rewards = {f"seed {seed}": value for seed, value in sorted(row.rewards.items())}
        rows.append(
            {"candidate": row.text, "ms": row.measured_ms, "chosen": row.chosen, learned.measure: row.reward}
            | rewards
            | {"expected": row.expected, "predicted from the others": row.left_out, "zen": row.zen}
            | genes
            | {"seconds": row.seconds, "error": row.error}
        )
    return pd.DataFrame(rows)


def complete_outcome(request: Request, learned: Learned) -> None:
    """The files of a run that is done, where one of them is missing: a search may need it."""
    needed = [MODEL, TRAININGS, REPORT, *([WINNER] if learned.winner else [])]
    if not all((request.out / name).is_file() for name in needed):
        write_outcome(request, learned)


def write_outcome(request: Request, learned: Learned) -> None:
    """model.json, trainings.csv, winner.yaml and report.html, in the folder of the run."""
    out = request.out
    text = io.StringIO()
    table_of(learned).to_csv(text, index=False)
    write_atomically(out / TRAININGS, text.getvalue())
    write_atomically(out / MODEL, json.dumps(learned.score.model_dump(mode="json"), indent=1) + "\n")
    if (winner := learned.winner) is not None:
        made_by = learned.made_by
        lines = [
            f"{made_by.command} (zennas {made_by.zennas}, seed {made_by.seed}, {made_by.machine}, {made_by.date})",
            f"learned {learned.measure} {winner.expected:.2f} ± {winner.expected_std:.2f}: expected, not measured; "
            f"{winner.predicted_ms} ms predicted of {learned.budget_ms:.4g} ms",
            f"the most that is expected within {REGION}",
        ]
        body = yaml.safe_dump(winner.candidate.plain(), sort_keys=False, default_flow_style=None)
        write_atomically(out / WINNER, "".join(f"# {line}\n" for line in lines) + body)
    write_report(out / REPORT, learned)
