"""How far a latency table is off: whole networks, predicted and measured, in numbers and on a page."""

import functools
import html
import math
import statistics
from collections.abc import Callable

import numpy as np

from zennas.latency.budget import keep_network, kept_network, kept_networks, measure_network
from zennas.latency.comparison import kendall_tau
from zennas.latency.table import LatencyTable
from zennas.page import LINE, Look, definitions, document, drawn, legend, notices, number, origin, panels, span, table
from zennas.provenance import Provenance, provenance
from zennas.records import Record, UserError
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.space import Space
from zennas.track import Protocol

SEED = 1  # of the candidates that are measured: always the same ones, so that a stopped command goes on
LEAST_SHARE = 0.25  # of the budget; networks far below it are of no use to a search
TRIES, MUTATIONS = 5, 300  # for each candidate that is wanted, and of each one drawn
NEAR_ENOUGH = 0.05  # of the target, as a logarithm
FEW = 3  # networks from which on an average says something
DOT, EQUAL = Look("#0f766e", "●", size_px=8), Look(LINE, "┅")


class Network(Record):
    """One network, predicted and measured whole."""

    candidate: str
    macs: int
    predicted_ms: float
    measured_ms: float
    low_ms: float  # the quartiles of its runs
    high_ms: float
    spread_pct: float
    date: str
    warning: str | None

    @property
    def off_pct(self) -> float:
        """How far the prediction is off, in per cent of the measurement."""
        return 100 * (self.predicted_ms / self.measured_ms - 1)


class Prediction(Record):
    """A table's predictions beside the measurements of whole networks."""

    title: str
    networks: tuple[Network, ...]  # fastest first
    mean_abs_pct: float
    max_abs_pct: float
    bias_pct: float
    scaled_mean_abs_pct: float  # with every prediction times one factor, as a search corrects its table
    macs_mean_abs_pct: float  # of multiply-accumulates times one factor, for comparison
    tau: float | None  # Kendall's, between predicted and measured
    num_unpredicted: int  # kept networks of the same sizes that the table knows nothing of
    stand_in: str | None
    protocol: Protocol
    made_by: Provenance


def measure_some(
    space: Space, latency_table: LatencyTable, protocol: Protocol, num: int, *, budget_ms: float, counting: Callable
) -> list[Candidate]:
    """`num` candidates spread between a quarter of the budget and all of it, each measured whole and kept.

    Where a baseline of the space is predicted to take longer, between a quarter of the budget and that: a table may be
    far off for small networks, and none may seem to fit. Where all baselines are far below the budget, the slowest
    stands for it. They are the first of always the same ones; those that are kept already are not measured again.
    `counting(done, total)` is called after each. UserError where the space has too few candidates there.
    """
    shape = space.shape
    rng, chosen = np.random.default_rng(SEED), {}
    predict = functools.partial(latency_table.predict, shape=shape)
    slowest_ms = max(map(predict, space.baselines.values()), default=budget_ms)
    budget_ms = slowest_ms if slowest_ms < LEAST_SHARE * budget_ms else budget_ms
    low_ms, high_ms = LEAST_SHARE * budget_ms, max(budget_ms, slowest_ms)
    for _ in range(TRIES * num):
        target_ms = rng.uniform(low_ms, high_ms)
        candidate, predicted_ms = _near(space, target_ms, rng, predict)
        if low_ms <= predicted_ms <= high_ms:
            chosen[candidate] = None
        if len(chosen) == num:
            break
    else:
        raise UserError(
            f"--measure {num}: in space {space.name}, {len(chosen)} candidates were found that take between "
            f"{low_ms:.2f} and {high_ms:.2f} ms"
        )
    for index, candidate in enumerate(chosen):
        if kept_network(candidate, protocol, shape) is None:
            keep_network(candidate, measure_network(candidate, protocol, shape), shape)
        counting(index + 1, len(chosen))
    return list(chosen)


def _near(space, target_ms, rng, predict):
    """(candidate, its predicted milliseconds): drawn, then mutated as long as that brings it nearer to the target.

    Draws alone would not do: where a budget is small beside what the ranges allow, 2 of 20,000 are within it.
    """
    candidate = space.sample(rng)
    off = math.log(predict(candidate) / target_ms)
    for _ in range(MUTATIONS):
        if abs(off) < NEAR_ENOUGH:
            break
        mutant = space.mutate(candidate, rng)
        mutant_off = math.log(predict(mutant) / target_ms)
        if abs(mutant_off) < abs(off):
            candidate, off = mutant, mutant_off
    return candidate, target_ms * math.exp(off)


def predict_kept(
    space: Space, latency_table: LatencyTable, protocol: Protocol, *, title: str, stand_in: str | None = None
) -> Prediction:
    """The Prediction over the whole networks of the space's sizes that this machine keeps; UserError without any."""
    shape = space.shape
    kept = kept_networks(protocol, shape)
    known = [(candidate, taken) for candidate, taken in kept if latency_table.covers(candidate, shape)]
    if not known:
        raise UserError(
            "no whole network that the table can predict is kept on this machine: measure some with --predicted "
            "--measure 20"
        )
    networks = sorted(
        (_network(candidate, taken, latency_table, shape) for candidate, taken in known),
        key=lambda network: network.measured_ms,
    )
    columns = [(network.predicted_ms, network.measured_ms, network.macs) for network in networks]
    predicted_N, measured_N, macs_N = np.array(columns).T
    off_pct = [network.off_pct for network in networks]
    return Prediction(
        title=title,
        networks=tuple(networks),
        mean_abs_pct=round(statistics.fmean(map(abs, off_pct)), 3),
        max_abs_pct=round(max(map(abs, off_pct)), 3),
        bias_pct=round(statistics.fmean(off_pct), 3),
        scaled_mean_abs_pct=round(_scaled_error(predicted_N, measured_N), 3),
        macs_mean_abs_pct=round(_scaled_error(macs_N, measured_N), 3),
        tau=kendall_tau(predicted_N, measured_N),
        num_unpredicted=len(kept) - len(known),
        stand_in=stand_in,
        protocol=protocol,
        made_by=provenance(seed=SEED),
    )


def _network(candidate, taken, latency_table, shape):
    low_ms, high_ms = np.percentile(taken.raw_ms, (25, 75))
    return Network(
        candidate=candidate.text,
        macs=cost(candidate, shape).macs,
        predicted_ms=round(latency_table.predict(candidate, shape), 4),
        measured_ms=taken.measured_ms,
        low_ms=round(float(low_ms), 4),
        high_ms=round(float(high_ms), 4),
        spread_pct=round(taken.spread_pct, 2),
        date=taken.date,
        warning=taken.warning,
    )


def _scaled_error(predictor_N, measured_N):
    """Mean error in per cent of a predictor times the one factor that fits best (the geometric mean of the ratios)."""
    factor = math.exp(np.log(measured_N / predictor_N).mean())
    return float(np.abs(100 * (predictor_N * factor / measured_N - 1)).mean())


def sentence(prediction: Prediction) -> str:
    """The result in words."""
    num = len(prediction.networks)
    text = (
        f"over {num} whole network{'s' if num > 1 else ''} the table is off by {prediction.mean_abs_pct:.2f} % on "
        f"average and "
    )
    text += f"{prediction.max_abs_pct:.2f} % at most (bias {prediction.bias_pct:+.2f} %)"
    if num >= FEW:
        text += f"; times one factor by {prediction.scaled_mean_abs_pct:.2f} %, multiply-accumulates alone by "
        text += f"{prediction.macs_mean_abs_pct:.2f} %"
    return text


# --- the page


def page(prediction: Prediction) -> str:
    """The HTML of a Prediction."""
    networks, made_by, protocol = prediction.networks, prediction.made_by, prediction.protocol.model_dump()
    noisy = [network for network in networks if network.warning]
    warning = f"{len(noisy)} of {len(networks)} measurements spread too widely to be trusted" if noisy else None
    missed = prediction.num_unpredicted and (
        f"{prediction.num_unpredicted} kept network(s) of other blocks are left out: the table knows nothing of their "
        "parts"
    )
    sections = f"""<section><h2>Predicted against measured</h2>
{notices([prediction.stand_in, warning, missed or None], "note")}
<p>Each network's latency as summed from the table of block latencies, against the same network measured whole. The dot
is the run that the rule counts, the bar the middle half of all runs. Below: how far the prediction is off; above zero,
the network is faster than predicted.</p>
{_figure(networks)}</section>
<section><h2>Every network</h2>
{_table(networks)}</section>
<section><h2>What the numbers mean, and what they do not</h2><ul>
<li><b>A prediction only chooses.</b> Networks that a search hands on are measured whole; what the table is off by costs
search time, not trust.</li>
<li><b>One factor is free.</b> A search multiplies its predictions by what its first measured networks show, so that the
error times one factor is what is left in practice.</li>
<li><b>Noise counts as error.</b> A machine that does other work at the time spreads; a wide bar says
so.</li></ul></section>"""
    again = "<p>What it takes to make the page again, with the networks that are kept on this machine.</p>"
    facts = [
        ("Result", sentence(prediction)),
        ("Ranking", f"Kendall's tau {number(prediction.tau, '.3f')} between predicted and measured"),
        (
            "Networks",
            f"{len(networks)}, {networks[0].measured_ms:.2f} to {networks[-1].measured_ms:.2f} ms",
        ),
    ]
    return document(
        sections,
        again + definitions(origin(made_by, [(made_by.machine, protocol)])),
        kind="latency",
        title=prediction.title,
        subtitle="What the table of block latencies predicts, against whole networks",
        banner=notices([prediction.stand_in, warning], "banner"),
        facts=facts,
    )


def _figure(networks):
    figure = panels([0.64, 0.36])
    ends = span(*(value for network in networks for value in (network.predicted_ms, network.measured_ms)))
    equal = {"mode": "lines", "line": {"color": EQUAL.colour, "dash": "dash"}, "hoverinfo": "skip", "col": 1}
    figure.add_scatter(x=ends, y=ends, row=1, **equal)
    figure.add_scatter(x=ends, y=[0, 0], row=2, **equal)
    for network in networks:
        bar = {"x": [network.predicted_ms] * 2, "mode": "lines", "opacity": 0.45, "hoverinfo": "skip", "col": 1}
        bar["line"] = {"color": DOT.colour, "width": 3}
        figure.add_scatter(y=[network.low_ms, network.high_ms], row=1, **bar)
        off = [100 * (network.predicted_ms / middle_ms - 1) for middle_ms in (network.low_ms, network.high_ms)]
        figure.add_scatter(y=off, row=2, **bar)
    dots = {
        "x": [network.predicted_ms for network in networks],
        "mode": "markers",
        "marker": {"color": DOT.colour, "size": DOT.size_px},
        "customdata": [[html.escape(network.candidate)] for network in networks],
        "col": 1,
    }
    hover = "%{customdata[0]}<br>predicted %{x:.2f} ms, "
    measured = [network.measured_ms for network in networks]
    figure.add_scatter(y=measured, row=1, hovertemplate=hover + "measured %{y:.2f} ms<extra></extra>", **dots)
    off = [network.off_pct for network in networks]
    figure.add_scatter(y=off, row=2, hovertemplate=hover + "off by %{y:+.2f} %<extra></extra>", **dots)
    figure.update_xaxes(range=ends)
    figure.update_xaxes(title="Predicted latency, ms", row=2)
    figure.update_yaxes(title="Measured, ms", row=1)
    figure.update_yaxes(title="Off by, %", row=2)
    return legend({"a network": DOT, "predicted = measured": EQUAL}) + drawn(figure, "prediction", height_px=560)


def _table(networks):
    rows = "".join(
        f"<tr><td class='text'>{html.escape(network.candidate)}</td><td>{number(network.macs / 1e9, '.3f')}</td>"
        f"<td>{network.predicted_ms:.2f}</td><td>{network.measured_ms:.2f} <i>± {network.spread_pct:.1f} %</i></td>"
        f"<td>{network.off_pct:+.2f}</td><td>{html.escape(network.date[:10])}</td></tr>"
        for network in networks
    )
    return table(("Network", "GMACs", "Predicted, ms", "Measured, ms", "Off by, %", "Taken"), rows)
