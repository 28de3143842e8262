"""What a search leaves behind: winners.json, a YAML and an ONNX per winner, the report, the finished study, a table to
read.
"""

import numpy as np
from rich.table import Table
from rich.text import Text

from zennas.progress import duration
from zennas.provenance import Provenance
from zennas.search.proof import closed_form_error, optimum_of, with_gap
from zennas.search.report import RunSummary, write_report
from zennas.search.store import MAX_FAILED_TRIALS
from zennas.search.winners import prediction_error, write_winners
from zennas.space.network import stem_stride


def publish(run, winners):
    """Write everything that people and scripts look at, from the ledger; the winners with their distance from the
    optimum.
    """
    for entry in _in_order(run, winners):
        judged = with_gap(run, entry)
        if judged.plain() != entry.plain():  # a gap that is not known is written down as such
            run.ledger.add_measured(judged)
    winners = [run.ledger.measured[entry.key] for entry in winners]
    run.ledger.save(optimum=optimum_of(run), closed_form_error=closed_form_error(run))
    write_winners(run.out, winners, seed=run.plan.seed)
    write_report(run.out / "report.html", summary(run, winners))
    fill_study(run, winners)
    return winners


def summary(run, winners):
    """The RunSummary of the report."""
    state, entries = run.ledger.state, _in_order(run, winners)
    error = prediction_error(entries)
    counters, budget = run.ledger.counters, run.budget
    looked_at = counters["screened"] or counters["seen"] or counters["scored"]
    facts = [
        ("track", run.track.name),
        ("space", f"{run.space.name}, block {run.space.block}"),
        ("budget", f"{budget.budget_ms:.2f} ms: {budget.origin}"),
        (
            "device",
            f"{winners[0].latency.machine if winners else state['made_by']['machine']}, {run.protocol.backend}",
        ),
        (
            "rule",
            f"batch {run.protocol.batch}, {run.protocol.threads} thread(s), "
            f"value {run.protocol.kth_fastest} of {run.protocol.num_runs} sorted runs",
        ),
        (
            "searched",
            f"{looked_at:,} candidates {'screened' if counters['screened'] else 'seen'}, {counters['scored']:,} "
            f"scored in "
            f"{duration(state['search_s'])}, {counters['failed']:,} failed",
        ),
        ("score", ", ".join(f"{name} {value}" for name, value in run.plan.score.model_dump().items())),
        *_proof(run, winners),
        *(("limit", _limit(limit, winners)) for limit in run.others),
    ]
    groups = {"finalists, corrected": run.ledger.finalists, "baselines, uncorrected": run.ledger.baselines}
    for what, group in groups.items():
        if (off := prediction_error(group))["num"]:
            text = f"off by {off['mean_abs_pct']} % on average, {off['max_abs_pct']} % at worst, over {off['num']}"
            facts.append(("prediction", f"{text} {what}"))
    return RunSummary(
        title=run.options.experiment.name,
        subtitle=run.track.title,
        facts=facts,
        budget_ms=budget.budget_ms,
        stand_in=budget.stand_in,
        scored=run.ledger.frame(factor=run.factor),
        entries=entries,
        counters=dict(counters),
        corrections=[event for event in state["events"] if "factor" in event],
        prediction_error=error,
        score_label=run.plan.score.label,
        score_name=run.plan.score.name,
        evidence=state.get("evidence", {}),
        rank_by=run.plan.evidence.rank_by,
        provenance=Provenance(**state["made_by"]),
        stem_px=run.space.image_px // stem_stride(run.space.block),
        optimum=state.get("optimum"),
    )


def _limit(limit, winners):
    """What the report says of a limit beside the latency."""

    def spent(entry):
        latency = entry.by_device.get(limit.device)
        return latency.measured_ms if latency else entry.other_costs[limit.name].cost

    return "; ".join([limit.text, *(f"{entry.name} {spent(entry):.4g}" for entry in winners)])


def _proof(run, winners):
    """What the report says of the proven optimum and of the closed form."""
    optimum, error = run.ledger.state.get("optimum"), run.ledger.state.get("closed_form_error")
    facts = []
    if optimum:
        best = f"; {winners[0].name} is {winners[0].gap_text} below it" if winners else ""
        facts.append(
            (
                "optimum",
                f"{optimum['text']}, closed form {optimum['closed_form']:.2f} at {optimum['predicted_ms']:.2f} ms "
                f"predicted: "
                f"proven, nothing in the space has more within the budget, as closed form and table have it{best}",
            )
        )
    elif run.funnel is not None:
        facts.append(("optimum", f"not proven: {run.funnel.why_not or 'no candidate is within the limits'}"))
    if error:
        text = (
            f"off by {error['mean_abs_pct']} % on average, {error['max_abs_pct']} % at worst, over "
            f"{error['num']:,} scored"
        )
        facts.append(("closed form", text))
    return facts


def fill_study(run, winners):
    """The rest of what the study shows: the population and everything measured; and its note."""
    rows, own_N = run.ledger.rows, run.ledger.own_N
    population = [candidate.key.encode() for _, _, candidate in run.batches.population.ranked]
    for at in np.flatnonzero(own_N & np.isin(rows.column("key"), population)):
        run.store_scored(rows[int(at)])
    for at in rows.failures[:MAX_FAILED_TRIALS]:
        if own_N[at]:
            run.store.add_failed(rows[at])
    for entry in _in_order(run, winners):
        run.store.add_measured(entry)
    run.store.show_files([run.out / entry.onnx for entry in winners])
    run.note = note(run, winners)


def note(run, winners):
    """The study's note, in markdown: what the run was and what it found."""
    state, budget = run.ledger.state, run.budget
    lines = [
        f"# {run.options.experiment.name}",
        "",
        f"{run.track.title}",
        "",
        f"- budget **{budget.budget_ms:.2f} ms**: {budget.origin}",
        *([f"- **{budget.stand_in}**"] if budget.stand_in else []),
        f"- command `{state['made_by']['command']}`, seed {run.plan.seed}, {state['made_by']['machine']}, "
        f"zennas {state['made_by']['zennas']}",
        "- this study shows the population, the front, everything measured and the failures; all "
        f"{len(run.ledger.rows)} scored candidates are in scored.parquet",
        "- latency of a trial with role *scored* is predicted by the table, of all others measured",
        "",
        f"| winner | candidate | {run.plan.score.label} | ms | GMACs | M params |",
        "|---|---|---|---|---|---|",
    ]
    for entry in winners:
        lines.append(
            f"| {entry.name} | {entry.candidate.text} | {entry.score_mean:.2f} | "
            f"{entry.latency.measured_ms:.2f} | {entry.macs / 1e9:.2f} | {entry.params / 1e6:.1f} |"
        )
    return "\n".join(
        [*lines, "", f"A {run.plan.score.label} is not an accuracy: it ranks untrained networks of one space."]
    )


def print_winners(run, winners, console):
    """The winners beside the baselines of the same run, as a table for people."""
    table = Table(
        title=f"{run.options.experiment.name}: winners and hand-made baselines, measured in this run",
        title_justify="left",
    )
    table.add_column("network", no_wrap=True)
    for name in (run.plan.score.label, "below optimum", "ms", "spread", "budget", "GMACs", "M params", "blocks", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in [*winners, *sorted(run.ledger.baselines, key=lambda entry: entry.latency.measured_ms)]:
        latency = entry.latency
        table.add_row(
            Text(entry.name),
            f"{entry.score_mean:.2f} ±{entry.score_std:.2f}",
            entry.gap_text,
            f"{latency.measured_ms:.2f}",
            f"{latency.spread_pct:.1f} %",
            f"{100 * latency.measured_ms / latency.budget_ms:.1f} %",
            f"{entry.macs / 1e9:.2f}",
            f"{entry.params / 1e6:.1f}",
            str(entry.num_blocks),
            f"{entry.megabytes:.0f}",
            style="bold" if entry.role == "winner" else None,
        )
    console.print(table)
    for entry in winners:
        console.print(f"{entry.name}  {entry.candidate.text}", markup=False, soft_wrap=True)


def _in_order(run, winners):
    """Winners, the other finalists, the baselines."""
    crowned = {winner.key for winner in winners}
    return [*winners, *(entry for entry in run.ledger.finalists if entry.key not in crowned), *run.ledger.baselines]
