import types

import numpy as np
import pytest

from zennas.search.bands import Bands
from zennas.search.cost_limits import CostLimit
from zennas.search.funnel import Proven
from zennas.search.optimum import Optimum
from zennas.search.proof import closed_form_error, optima_of, optimum_of, with_gap
from zennas.search.scored import Row, Rows
from zennas.space.space import effectiveness
from zennas.track import load_space

SPACE = load_space("ir_se_tiny")
CHEAPEST = SPACE.cheapest()


def row_of(candidate, score):
    said = (candidate.key, candidate.text, candidate.block, candidate.stem, candidate.widths, candidate.depths)
    return Row(0, *said, score, 0.0, 0.0, 1.0, 1, 1, candidate.num_blocks, 0.0, None, None)


class ByBlocks:
    """A closed form of ten points a block."""

    def of(self, space, genes_NG):
        return 10.0 * np.asarray(genes_NG)[:, len(space.widths) + 1 :].sum(1)


DEEP = CHEAPEST.model_copy(update={"depths": (2, 2, 1)})


def run(*, optimum=True, scores=(), bands=None, proven=None):
    """A search whose whole optimum is DEEP; or, with bands, what is proven of each."""
    found = Optimum(DEEP, 50.0, (4.0,), 51.0, 3) if optimum else None
    rows = Rows()
    rows.extend([row_of(CHEAPEST, score) for score in scores])
    funnel = types.SimpleNamespace(score=ByBlocks(), optimum=found, proven=proven or [Proven(found, None)])
    return types.SimpleNamespace(
        space=SPACE,
        bands=bands or Bands(SPACE),
        predictor=types.SimpleNamespace(
            factor_of=lambda candidate: 0.5, limits=(CostLimit("blocks", lambda part: float(part.is_block), 9.0),)
        ),
        funnel=funnel,
        ledger=types.SimpleNamespace(rows=rows),
    )


def test_the_gap_is_the_optimums_closed_form_less_the_candidates(make_entry):
    entry = with_gap(run(), make_entry(CHEAPEST, name="winner-1"))
    assert CHEAPEST.genes[-3:] == (1, 1, 1)
    assert (entry.closed_form, entry.gap, entry.gap_pct) == (30.0, 20.0, 40.0)
    assert entry.plain()["other_costs"] == {"blocks": {"cost": 3.0, "most": 9.0}} and entry.name == "winner-1"


def test_without_a_proof_there_is_a_closed_form_and_no_gap(make_entry):
    entry = with_gap(run(optimum=False), make_entry(CHEAPEST))
    assert (entry.closed_form, entry.gap, entry.gap_pct) == (30.0, None, None)
    assert optimum_of(run(optimum=False)) is None


def test_a_network_of_another_block_has_neither_and_its_file_says_so(make_entry):
    other = CHEAPEST.model_copy(update={"block": "ir"})
    entry = with_gap(run(), make_entry(other))
    assert (entry.closed_form, entry.gap, entry.gap_pct) == (None, None, None)
    assert list(entry.plain())[-4:] == ["made_by", "closed_form", "gap", "gap_pct"]


def test_the_optimum_is_said_in_corrected_milliseconds():
    said = optimum_of(run())
    assert (said["predicted_ms"], said["closed_form"], said["bound"], said["num_boxes"]) == (2.0, 50.0, 51.0, 3)
    assert said["text"] == run().funnel.optimum.candidate.text


def test_the_gap_of_a_network_is_that_to_the_optimum_of_its_band(make_entry):
    """The wide optimum has 40 points, the deep one 50: what is 30 and wide is 10 below its own."""
    between = (effectiveness(CHEAPEST) + effectiveness(DEEP)) / 2
    wide = Optimum(CHEAPEST.model_copy(update={"stem": 32}), 40.0, (4.0,), 41.0, 3)
    proven = [Proven(Optimum(DEEP, 50.0, (4.0,), 51.0, 3), None), Proven(wide, None)]
    bands = Bands(SPACE, {"deep": None, "wide": between})
    entries = {
        name: with_gap(run(bands=bands, proven=proven), make_entry(candidate))
        for name, candidate in {"wide": CHEAPEST, "deep": DEEP}.items()
    }
    assert {name: (entry.band, entry.gap, entry.gap_pct) for name, entry in entries.items()} == {
        "wide": ("wide", 10.0, 25.0),
        "deep": ("deep", 0.0, 0.0),
    }
    assert list(entries["wide"].plain())[-2:] == ["gap_pct", "band"]
    known = optima_of(run(bands=bands, proven=[proven[0], Proven(None, "too many boxes")]))
    assert [(each["band"], each["optimum"] and each["optimum"]["closed_form"], each["why_not"]) for each in known] == [
        ("deep", 50.0, None),
        ("wide", None, "too many boxes"),
    ]
    assert known[0]["least_effectiveness"] == round(between, 6) and known[1]["least_effectiveness"] == 0.0
    assert optima_of(run()) == []


def test_the_closed_forms_error_is_over_all_that_was_scored():
    """30 against 20, 30 and 40: 50, 0 and 25 per cent; what failed does not count."""
    assert closed_form_error(run(scores=(20.0, 30.0, 40.0, None))) == {
        "num": 3,
        "mean_abs_pct": 25.0,
        "max_abs_pct": 50.0,
    }
    assert closed_form_error(run(scores=(None,))) is None


@pytest.mark.parametrize(
    ("gap", "within_budget", "text"), [(2.0, True, "2.00 (0.40 %)"), (-2.0, False, "-"), (None, True, "-")]
)
def test_no_distance_is_said_of_what_is_over_the_budget(make_entry, gap, within_budget, text):
    entry = make_entry(CHEAPEST, ms=1.0, budget_ms=2.0 if within_budget else 0.5, gap=gap, gap_pct=0.4)
    assert entry.gap_text == text
