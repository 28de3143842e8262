"""The pool: candidates of one latency, each measured whole, that differ as much as the space allows.

All are within 2 x near_pct of one another, so that none is better because it is slower. Three of four fill the space,
the fourth is one that the prior puts first: whom to train is chosen among them.
"""

# N candidates drawn, G genes

import time

import numpy as np

from zennas.learn.choosing import fill_space, first_by_prior
from zennas.learn_plan import LearnPlan
from zennas.progress import duration
from zennas.records import UserError, first_line
from zennas.score.learned import width_prior
from zennas.search.cost_limits import constraints
from zennas.search.forecast import side_by_side
from zennas.search.measured import Measured
from zennas.search.optimum import Constraint, Problem
from zennas.search.stages import Searched
from zennas.search.winners import export_all, measure_finalist, measured_correction, prediction_error
from zennas.space.parts import Sums, sums, sums_of_genes

NUM_DRAWS, DRAWN_AT_ONCE = 2_000_000, 200_000  # candidates drawn for the pool
ENOUGH = 4_000  # near the latency, as predicted: no more are drawn
PRIOR_EVERY = 4  # one of so many is the prior's
TRIES = 6  # measured for one that is kept; small networks are predicted badly, and cost little to measure
MANY, FEW_OF = 12, 4  # measured, and fewer than one of so many is kept: it is told, with the reason
WIDER = 3.0  # times near_pct: as far as a prediction may be off the middle where none is nearer


def equal_pool(searched: Searched, plan: LearnPlan) -> list[Measured]:
    """The pool, in the order in which it was found: what was measured before is not measured again.

    UserError where fewer than `plan.trainings` candidates of the space have this latency.
    """
    middle_ms, ledger, progress = plan.middle_ms(searched.budget.budget_ms), searched.ledger, searched.progress
    progress.begin(f"drawing candidates of about {middle_ms:.4g} ms")
    progress.update({})
    genes_NG, table_N = _drawn(searched, middle_ms, plan)
    progress.end()
    tried = {entry.key for entry in ledger.finalists}
    kept = [entry for entry in ledger.finalists if _is_near(entry, middle_ms, plan)]
    untried_N = np.array([searched.space.candidate(genes_G).key not in tried for genes_G in genes_NG], bool)
    num_tries = TRIES * plan.pool
    progress.begin("measuring candidates of equal latency")
    far = _HowFar(plan, num_tries, len(kept), len(tried))
    while len(kept) < plan.pool and len(tried) < num_tries:
        rows = _next(searched, plan, genes_NG, table_N, untried_N, kept, middle_ms, num=side_by_side(searched))
        if not rows:
            break
        untried_N[rows] = False
        for entry in _measured(searched, [searched.space.candidate(genes_NG[row]) for row in rows]):
            tried.add(entry.key)
            if _is_near(entry, middle_ms, plan):
                kept.append(entry)
        progress.update(far.fields(len(kept), len(tried)))
        if far.is_slow(len(kept), len(tried)):
            progress.say(f"warning: {_few(searched, kept, middle_ms, plan)}", style="yellow")
    progress.end()
    if len(kept) < plan.trainings:
        raise UserError(
            f"space {searched.space.name}: {plan.trainings} are to be trained, and "
            f"{_few(searched, kept, middle_ms, plan)}; give another --budget-ms, fewer --trainings, or "
            "the experiment a larger learn.near_pct"
        )
    progress.say(
        f"   pool  {len(kept)} candidates of {min(map(_ms, kept)):.4g} to {max(map(_ms, kept)):.4g} ms, of "
        f"{len(tried)} measured"
    )
    return kept


class _HowFar:
    """How far the measuring is, from where this process began with so many kept of so many tried."""

    def __init__(self, plan, num_tries, num_kept, num_tried):
        self._plan, self._num_tries, self._kept, self._tried = plan, num_tries, num_kept, num_tried
        self._begun, self._is_told = time.monotonic(), False

    def fields(self, num_kept, num_tried):
        """{name: text}, as a Progress shows them. What is left is told by the share that is kept."""
        pool = self._plan.pool
        fields = {
            "equal": f"{min(num_kept, pool)} of {pool}",
            "measured": f"{num_tried} of {self._num_tries} at most",
        }
        new, newly_tried = num_kept - self._kept, num_tried - self._tried
        if new > 0:
            more = min(max(0, pool - num_kept) * newly_tried / new, self._num_tries - num_tried)
            fields["left"] = duration((time.monotonic() - self._begun) / newly_tried * more)
        return fields

    def is_slow(self, num_kept, num_tried):
        """Whether so few of those that were measured are kept that it should be told; once."""
        slow = num_tried - self._tried >= MANY and (num_kept - self._kept) * FEW_OF < num_tried - self._tried
        told, self._is_told = self._is_told, self._is_told or slow
        return slow and not told


def _few(searched, kept, middle_ms, plan):
    """How many of those that were measured are kept, and why not more."""
    measured = searched.ledger.finalists
    of_noise = sum(entry.latency.warning is not None for entry in measured)
    why = f"predictions are {prediction_error(measured)['mean_abs_pct']} % off on average"
    if 2 * of_noise > len(measured):
        why = f"the runs of {of_noise} spread too far: other work on this machine makes equal ones look unequal"
    why = f"; {why}" if measured else ""
    return f"{len(kept)} of {len(measured)} measured lie within {plan.near_pct:g} % of {middle_ms:.4g} ms{why}"


def latency_sums(searched: Searched) -> Sums:
    """The Sums of the uncorrected table over the space."""
    return sums(searched.space, searched.predictor.table.part_ms)


def correction_of(searched: Searched) -> float:
    """The factor of the table's predictions, by the candidates that were measured, or, before any, by the baselines."""
    if searched.ledger.finalists:
        return measured_correction(searched.ledger.finalists, searched.budget.budget_ms)
    return searched.predictor.factor


def _ms(entry):
    return entry.latency.measured_ms


def _is_near(entry, middle_ms, plan):
    return abs(_ms(entry) / middle_ms - 1) <= plan.near_pct / 100


def _drawn(searched, middle_ms, plan):
    """(genes_NG, table_N): different candidates of the space whose prediction may come near the middle, with the
    table's uncorrected milliseconds."""
    space, latency = searched.space, latency_sums(searched)
    nothing = sums_of_genes(space, [np.zeros(len(span.values())) for span in space.genes.values()])
    limits = constraints(searched.predictor.limits, space)
    problem = Problem(space, nothing, [Constraint("latency (ms)", latency, np.inf), *limits])
    low_G, high_G, step_G = np.array([(span.low, span.high, span.step) for span in space.genes.values()]).T
    rng, near, num = np.random.default_rng((plan.seed, 0)), [], 0
    for _ in range(0, NUM_DRAWS, DRAWN_AT_ONCE):
        genes_NG = low_G + step_G * rng.integers((high_G - low_G) // step_G + 1, size=(DRAWN_AT_ONCE, len(low_G)))
        table_N = latency.of(space, genes_NG)
        # As wide as corrections by what is measured may move the predictions.
        near_N = np.abs(searched.predictor.factor * table_N / middle_ms - 1) <= 4 * WIDER * plan.near_pct / 100
        genes_NG = genes_NG[near_N]
        genes_NG = genes_NG[problem.judged(genes_NG)[1]] if len(genes_NG) else genes_NG
        near.append(genes_NG)
        num += len(genes_NG)
        if num >= ENOUGH:
            break
    genes_NG = np.unique(np.concatenate(near), axis=0)
    rng.shuffle(genes_NG)
    return genes_NG, latency.of(space, genes_NG) if len(genes_NG) else np.zeros(0)


def _next(searched, plan, genes_NG, table_N, untried_N, kept, middle_ms, *, num):
    """Rows of the next candidates to measure, predicted to be near the middle; fewer than `num` where no more are."""
    off_N = np.abs(correction_of(searched) * table_N / middle_ms - 1)
    for wider in (0.5, 1.0, WIDER):
        place_N = np.flatnonzero(untried_N & (off_N <= wider * plan.near_pct / 100))
        if len(place_N) >= num:
            break
    if not len(place_N):
        return []
    kept_KG = np.array([entry.candidate.genes for entry in kept], int).reshape(-1, genes_NG.shape[1])
    all_NG = np.concatenate([kept_KG, genes_NG[place_N]])
    feature_NF, beside = np.log(all_NG), list(range(len(kept)))
    if len(kept) % PRIOR_EVERY == PRIOR_EVERY - 1:
        rows = first_by_prior(feature_NF, width_prior(all_NG, searched.space), num, beside=beside)
    else:
        rows = fill_space(feature_NF, num, beside=beside)
    return [int(place_N[row - len(kept)]) for row in rows]


def _measured(searched, candidates):
    """[Measured] of candidates, scored and exported side by side and measured one by one; one that cannot be is said
    and left out."""
    paths = {candidate: searched.folder / f"{candidate.key}.onnx" for candidate in candidates}
    handles = {
        candidate: searched.workers.submit(
            [candidate], searched.plan.score, shape=searched.space.shape, seed=searched.plan.seed
        )
        for candidate in candidates
    }
    entries = []
    try:
        for candidate, exported in export_all(searched, paths).items():
            (scored,) = searched.workers.results(handles[candidate], 1)
            if scored.error is not None:
                searched.progress.say(f"{candidate.text} cannot be scored: {scored.error}", style="yellow")
                continue
            entry = measure_finalist(searched, candidate, score=(scored.value, scored.std), exported=exported)
            if isinstance(entry, Exception):
                searched.progress.say(f"{candidate.text} cannot be measured: {first_line(entry)}", style="yellow")
                continue
            searched.ledger.add_measured(entry.changed(onnx=None))
            entries.append(entry)
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)
    return entries
