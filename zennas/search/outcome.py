"""What a search leaves behind: winners.json, a YAML and an ONNX per winner, the report, the finished study."""

import numpy as np

from zennas.latency.protocol import ms_text
from zennas.progress import duration
from zennas.provenance import Provenance
from zennas.search.beside import mirrored_sentence, with_what_is_beside
from zennas.search.loop import store_scored
from zennas.search.measured import Measured
from zennas.search.proof import closed_form_error, optima_of, optimum_of, with_gap
from zennas.search.report import RunSummary, write_report
from zennas.search.stages import Searched
from zennas.search.store import MAX_FAILED_TRIALS
from zennas.search.winners import prediction_error, write_winners


def publish(searched: Searched, winners: list[Measured]) -> list[Measured]:
    """Write all that people and scripts look at. The winners, with their distance from the optimum of their band."""
    for entry in _in_order(searched, winners):
        judged = with_gap(searched, entry)
        if judged.plain() != entry.plain():  # a gap that is not known is written down as such
            searched.ledger.add_measured(judged)
    known = [searched.ledger.measured[entry.key] for entry in (*winners, *searched.ledger.baselines)]
    for before, entry in zip(known, with_what_is_beside(searched, known), strict=True):
        if entry.plain() != before.plain():
            searched.ledger.add_measured(entry)
    winners = [searched.ledger.measured[entry.key] for entry in winners]
    optima = {"optimum": optimum_of(searched), "optima": optima_of(searched)}
    searched.ledger.save(**optima, closed_form_error=closed_form_error(searched))
    write_winners(searched.folder, winners, seed=searched.plan.seed)
    write_report(searched.folder / "report.html", summary(searched, winners))
    fill_study(searched, winners)
    return winners


def summary(searched: Searched, winners: list[Measured]) -> RunSummary:
    """The RunSummary of the report."""
    state, entries = searched.ledger.state, _in_order(searched, winners)
    error = prediction_error(entries)
    counters, budget = searched.ledger.counters, searched.budget
    looked_at = counters["screened"] or counters["seen"] or counters["scored"]
    facts = [
        ("track", searched.track.name),
        ("space", f"{searched.space.name}, block {searched.space.block}"),
        ("budget", f"{ms_text(budget.budget_ms)}: {budget.origin}"),
        (
            "device",
            f"{winners[0].latency.machine if winners else state['made_by']['machine']}, {searched.protocol.backend}",
        ),
        (
            "rule",
            f"batch {searched.protocol.batch}, {searched.protocol.threads} thread(s), "
            f"value {searched.protocol.kth_fastest} of {searched.protocol.num_runs} sorted runs",
        ),
        (
            "searched",
            f"{looked_at:,} candidates {'screened' if counters['screened'] else 'seen'}, {counters['scored']:,} "
            f"scored in {duration(state['search_s'])}, {counters['failed']:,} failed",
        ),
        ("score", searched.plan.score.text),
        *_proof(searched, winners),
        *(("limit", _limit(limit, winners)) for limit in searched.predictor.limits),
    ]
    groups = {"finalists, corrected": searched.ledger.finalists, "baselines, uncorrected": searched.ledger.baselines}
    for what, group in groups.items():
        if (off := prediction_error(group))["num"]:
            text = f"off by {off['mean_abs_pct']} % on average, {off['max_abs_pct']} % at worst, over {off['num']}"
            facts.append(("prediction", f"{text} {what}"))
    if (mirrored := mirrored_sentence(entries)) is not None:
        facts.append(("mirror image", mirrored))
    return RunSummary(
        title=searched.experiment.name,
        subtitle=searched.track.title,
        facts=facts,
        budget_ms=budget.budget_ms,
        stand_in=budget.stand_in,
        scored=searched.ledger.frame(factor=searched.predictor.factors_of(searched.ledger.rows.genes_NG)),
        entries=entries,
        counters=dict(counters),
        corrections=searched.ledger.corrections,
        prediction_error=error,
        score_label=searched.plan.score.label,
        score_name=searched.plan.score.name,
        evidence=state.get("evidence", {}),
        rank_by=searched.plan.evidence.rank_by,
        provenance=Provenance(**state["made_by"]),
        shape=searched.space.shape,
        optimum=state.get("optimum"),
        optima=state.get("optima", []),
    )


def _limit(limit, winners):
    """What the report says about a limit beside the latency."""

    def spent(entry):
        latency = entry.by_device.get(limit.device)
        return latency.measured_ms if latency else entry.other_costs[limit.name].cost

    return "; ".join([limit.text, *(f"{entry.name} {spent(entry):.4g}" for entry in winners)])


def _proof(searched, winners):
    """What the report says about the proven optimum of each band and the closed form."""
    state, error = searched.ledger.state, searched.ledger.state.get("closed_form_error")
    facts = []
    whole = {"band": None, "optimum": state.get("optimum"), "why_not": searched.funnel and searched.funnel.why_not}
    for proven in (state.get("optima") or [whole]) if searched.funnel is not None else []:
        optimum, where = proven["optimum"], f"{proven['text']}: " if proven["band"] else ""
        if optimum is None:
            text = f"not proven: {proven['why_not'] or 'no candidate is within the limits'}"
        else:
            best = next((entry for entry in winners if entry.band == proven["band"]), None)
            text = (
                f"{optimum['text']}, closed form {optimum['closed_form']:.2f} at {ms_text(optimum['predicted_ms'])} "
                f"predicted: proven, nothing {'of this band' if where else 'in the space'} has more within the budget, "
                f"as closed form and table have it{f'; {best.name} is {best.gap_text} below it' if best else ''}"
            )
        facts.append(("optimum", where + text))
    if error:
        text = (
            f"off by {error['mean_abs_pct']} % on average, {error['max_abs_pct']} % at worst, over "
            f"{error['num']:,} scored"
        )
        facts.append(("closed form", text))
    return facts


def fill_study(searched: Searched, winners: list[Measured]) -> None:
    """Write the rest of what the study shows: the population, everything measured, and its note."""
    rows, own_N = searched.ledger.rows, searched.ledger.own_N
    population = [candidate.key.encode() for _, _, candidate in searched.batches.population.ranked]
    for at in np.flatnonzero(own_N & np.isin(rows.column("key"), population)):
        store_scored(searched, rows[int(at)])
    for at in rows.failures[:MAX_FAILED_TRIALS]:
        if own_N[at]:
            searched.store.add_failed(rows[at])
    for entry in _in_order(searched, winners):
        searched.store.add_measured(entry)
    searched.store.show_files([searched.folder / entry.onnx for entry in winners])
    searched.resources.leave_note(note(searched, winners))


def note(searched: Searched, winners: list[Measured]) -> str:
    """The study's note, in markdown: what the run was and what it found."""
    state, budget = searched.ledger.state, searched.budget
    lines = [
        f"# {searched.experiment.name}",
        "",
        f"{searched.track.title}",
        "",
        f"- budget **{ms_text(budget.budget_ms)}**: {budget.origin}",
        *([f"- **{budget.stand_in}**"] if budget.stand_in else []),
        f"- command `{state['made_by']['command']}`, seed {searched.plan.seed}, {state['made_by']['machine']}, "
        f"zennas {state['made_by']['zennas']}",
        "- this study shows the population, the front, everything measured and the failures; all "
        f"{len(searched.ledger.rows)} scored candidates are in scored.parquet",
        "- latency of a trial with role *scored* is predicted by the table, of all others measured",
        "",
        f"| winner | band | candidate | {searched.plan.score.label} | below optimum | latency | GMACs | M params |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in winners:
        lines.append(
            f"| {entry.name} | {entry.band or '-'} | {entry.candidate.text} | {entry.score_mean:.2f} | "
            f"{entry.gap_text} | "
            f"{ms_text(entry.latency.measured_ms)} | {entry.macs / 1e9:.2f} | {entry.params / 1e6:.1f} |"
        )
    return "\n".join([*lines, "", searched.plan.score.caution])


def _in_order(searched, winners):
    """Winners, the other finalists, the baselines."""
    crowned = {winner.key for winner in winners}
    finalists = [entry for entry in searched.ledger.finalists if entry.key not in crowned]
    return [*winners, *finalists, *searched.ledger.baselines]
