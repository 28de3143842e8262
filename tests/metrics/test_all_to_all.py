"""All pairs at once against all pairs one by one: every number, whatever the blocks, the screening, the ties and the
kills.
"""

import itertools
import math
import signal
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from tests.processes import forked
from zennas.metrics import all_to_all as module
from zennas.metrics import scan
from zennas.metrics.all_to_all import all_to_all
from zennas.metrics.blocks import Plan, paired
from zennas.metrics.scan import possible_pairs
from zennas.metrics.verification import tar_at_far
from zennas.records import UserError

FARS = [0.0, 1e-4, 0.003, 0.1, 0.5, 1.0]
SMALL = [Plan(7, 12, 4, torch.float32), Plan(64, 16, 16, torch.float32), Plan(33, 40, 8, torch.bfloat16)]


def unit_rows(embedding_ND):
    """As the docstring of all_to_all defines them, by numpy alone."""
    row_ND = np.asarray(embedding_ND, np.float64)
    norm_N = np.sqrt((row_ND**2).sum(1))
    row_ND = (row_ND / np.where(norm_N > 0, norm_N, 1)[:, None]).astype(np.float32).astype(np.float64)
    return np.rint(row_ND * 2**26) / 2**26


def naive(embedding_ND, label_N, against=None):
    """(similarities, same, caller's i, j) of all pairs, by math.fsum, which rounds once: here, not at all."""
    left, right = unit_rows(embedding_ND), unit_rows(embedding_ND if against is None else against[0])
    other = label_N if against is None else against[1]
    pairs = itertools.combinations(range(len(left)), 2) if against is None else np.ndindex(len(left), len(right))
    rows = [(math.fsum(left[i] * right[j]), label_N[i] == other[j], i, j) for i, j in pairs]
    return [np.array([row[part] for row in rows], kind) for part, kind in enumerate((float, bool, int, int))]


def clustered(num_rows, *, size=32, identities=12, seed=0, doubles=5):
    """Embeddings round centres, some of them there twice, in no order."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(-3, identities - 3, num_rows)
    centre_CD = rng.standard_normal((identities, size))
    embedding_ND = (centre_CD[label_N + 3] + 1.5 * rng.standard_normal((num_rows, size))).astype(np.float32)
    embedding_ND[:doubles] = embedding_ND[-doubles:] if doubles else embedding_ND[:0]
    return embedding_ND, label_N


def assert_naive(found, fars, similarity, same, i, j, num_hardest=24):
    """Everything of the result that can be said of all pairs. Equal means equal: the similarities have no rounding."""
    assert (found.num_same, found.num_different) == (same.sum(), (~same).sum())
    descending = np.sort(similarity[~same])[::-1]
    for far, point in zip(fars, found.points, strict=True):
        np.testing.assert_equal(point.tar, tar_at_far(similarity, same, far))
        allowed = math.floor(far * len(descending) * (1 + 1e-12))
        threshold = descending[allowed] if allowed < len(descending) else -math.inf if len(descending) else math.nan
        np.testing.assert_equal(point.threshold + 0.0, threshold + 0.0)  # -0.0 is 0.0
        assert point.far == far and point.num_accepted == (
            0 if math.isnan(threshold) else (descending > threshold).sum()
        )
    for pairs, chosen, sign in ((found.hardest_different, ~same, -1), (found.hardest_same, same, 1)):
        order = np.lexsort((j[chosen], i[chosen], sign * similarity[chosen]))[:num_hardest]
        assert pairs == [(similarity[chosen][at], i[chosen][at], j[chosen][at]) for at in order]
    edge_E, same_B, different_B = found.histogram
    np.testing.assert_equal(same_B, np.histogram(np.clip(similarity[same], -1, 1), edge_E)[0])
    assert different_B.sum() == pytest.approx(min(len(descending), 1))  # shares, added up in floats


def equal(one, other):
    np.testing.assert_equal(one._asdict(), other._asdict())
    return True


CASES = {
    "clusters with doubles": clustered(90),
    "one label": clustered(40, identities=1),
    "all labels distinct": (clustered(60)[0], np.random.default_rng(1).permutation(60)),
    "zero rows": (clustered(60)[0] * (np.arange(60) % 7 > 1)[:, None], clustered(60)[1]),
    "float16": (clustered(60)[0].astype(np.float16), clustered(60)[1].astype(np.uint8)),
    "all rows the same": (np.ones((50, 32), np.float32), np.arange(50) // 3),
    "two rows": (np.eye(2, 3, dtype=np.float32), np.array([4, 5])),
    "one row": (np.eye(1, 3, dtype=np.float32), np.array([4])),
    "tiny and huge rows": (
        np.eye(20, dtype=np.float32) * 1e-30 + 1e30 * np.eye(20, k=1, dtype=np.float32),
        np.arange(20) % 4,
    ),
}


@pytest.mark.parametrize("plan", [None, *SMALL], ids=["own", "7x12", "64x16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_all_pairs_at_once_are_all_pairs_one_by_one(case, plan):
    embedding_ND, label_N = CASES[case]
    found, pairs = all_to_all(embedding_ND, label_N, FARS, _plan=plan), naive(embedding_ND, label_N)
    assert_naive(found, FARS, *pairs)
    different_B, _ = np.histogram(np.clip(pairs[0][~pairs[1]], -1, 1), found.histogram[0])  # of few pairs, of all
    np.testing.assert_array_equal(found.histogram[2], different_B / max(different_B.sum(), 1))


@pytest.mark.parametrize("plan", SMALL, ids=["7x12", "64x16", "bfloat16"])
def test_of_two_sides_all_pairs_of_a_row_and_a_row(plan):
    """Of the other side's labels some are on this side alone, some on that one alone, and it has another number of
    rows.
    """
    (embedding_ND, label_N), (embedding_MD, label_M) = clustered(50), clustered(70, seed=0, identities=9)
    label_M = np.where(label_M == 0, 100, label_M)
    found = all_to_all(embedding_ND, label_N, FARS, against=(embedding_MD, label_M), _plan=plan)
    assert_naive(found, FARS, *naive(embedding_ND, label_N, (embedding_MD, label_M)))
    assert found.num_same + found.num_different == 50 * 70


def test_two_sides_without_a_common_identity():
    rows = np.eye(4, 8, dtype=np.float32)
    found = all_to_all(rows, np.zeros(4, int), [0.5], against=(rows, np.ones(4, int)))
    assert found.num_same == 0 and math.isnan(found.points[0].tar) and found.hardest_same == []


@settings(max_examples=60)
@given(st.data())
def test_ties_of_small_whole_numbers(data):
    """Few different rows, so that most similarities are equal to others; blocks of any size; FARs at which ties would
    split.
    """
    num_rows, size = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4))
    numbers = st.integers(-2, 2)
    rows = st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=num_rows, max_size=num_rows)
    labels = st.lists(st.integers(0, 4), min_size=num_rows, max_size=num_rows)
    embedding_ND, label_N = np.array(data.draw(rows), np.float32), np.array(data.draw(labels))
    against = (np.array(data.draw(rows), np.float32), np.array(data.draw(labels))) if data.draw(st.booleans()) else None
    fars = [one / 16 for one in data.draw(st.lists(st.integers(0, 16), min_size=1, max_size=3))]
    segment = data.draw(st.integers(1, 5))
    plan = Plan(
        data.draw(st.integers(1, 16)),
        segment * data.draw(st.integers(1, 4)),
        segment,
        data.draw(st.sampled_from([torch.float32, torch.bfloat16])),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SLACK", data.draw(st.integers(0, 20)))  # the floor rises
        patch.setattr(scan, "WAITING", data.draw(st.integers(0, 20)))
        patch.setattr(module, "MAX_KEPT", data.draw(st.integers(0, 60)))  # some are counted
        patch.setattr(module, "SAMPLE_SIDE", data.draw(st.sampled_from([0, 2048])))  # and not all are held
        patch.setattr(module, "SMALL_IDENTITY", data.draw(st.integers(0, 4)))  # tiles of large ones
        patch.setattr(module, "TILE_ROWS", data.draw(st.integers(1, 3)))
        patch.setattr(module, "TILE_COLUMNS", data.draw(st.integers(3, 5)))
        patch.setattr(scan, "WHOLE_ROWS", data.draw(st.integers(1, 5)))
        patch.setattr(scan, "STRIP", data.draw(st.integers(1, 30)))
        found = all_to_all(embedding_ND, label_N, fars, against=against, num_hardest=3, _plan=plan)
    assert_naive(found, fars, *naive(embedding_ND, label_N, against), num_hardest=3)


def test_nothing_depends_on_blocks_screening_or_threads(monkeypatch):
    """With a floor that rises again and again. The curve, which is partly sampled, is the same too."""
    monkeypatch.setattr(module, "SAMPLE_SIDE", 300)
    embedding_ND, label_N = clustered(700, size=64, identities=40)
    fars = [1e-5, 1e-3, 0.02]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SLACK", 50)
        patch.setattr(scan, "WAITING", 100)
        first = all_to_all(embedding_ND, label_N, fars, _plan=Plan(100, 64, 16, torch.float32))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        plans = [
            None,
            *(Plan(*sizes, torch.bfloat16) for sizes in ((2048, 4096, 128), (41, 96, 32))),
            Plan(700, 8, 8, torch.float32),
        ]
        for plan in plans:
            assert equal(all_to_all(embedding_ND, label_N, fars, _plan=plan), first)
    finally:
        torch.set_num_threads(threads)


def test_more_pairs_than_may_be_held_are_counted(monkeypatch):
    embedding_ND, label_N = clustered(150)
    held = all_to_all(embedding_ND, label_N, FARS)
    assert held.exact_up_to == 1  # all pairs were held
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    assert all_to_all(embedding_ND, label_N, FARS).exact_up_to == 0.5
    monkeypatch.setattr(module, "MAX_KEPT", 40)
    for plan in SMALL:
        counted = all_to_all(embedding_ND, label_N, FARS, _plan=plan)
        assert counted.points == held.points and counted.hardest_different == held.hardest_different
        assert counted.exact_up_to == 0.003


@pytest.mark.parametrize("ends", [(-0.1, -0.09), (0.3, 2.0), (-2.0, -0.5)], ids=["narrow", "too high", "too low"])
def test_bounds_misjudged_cost_another_scan_and_no_more(monkeypatch, ends):
    embedding_ND, label_N = clustered(150)
    expected, seen, bounds = all_to_all(embedding_ND, label_N, [0.5]).points, [], scan.bounds
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    monkeypatch.setattr(module, "MAX_KEPT", 40)
    monkeypatch.setattr(scan, "bounds", lambda *given: seen.append(1) or (bounds(*given) if given[-1] else ends))
    assert all_to_all(embedding_ND, label_N, [0.5], _plan=SMALL[0]).points == expected
    assert len(seen) == 2


def test_pairs_at_the_edges_of_bins_lie_where_they_belong():
    """Similarities at the edges of bins, or as near to them as rows of unit length come."""
    angle_N = np.arccos(np.repeat(np.linspace(-1, 1, 201), 2)) + np.tile([0, 1e-9], 201)
    row_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], 1)
    against = (np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([-1, -2]))
    found = all_to_all(row_ND, np.arange(402), [0.5], against=against)
    exact = unit_rows(row_ND) @ unit_rows(against[0]).T
    expected_B, _ = np.histogram(np.clip(exact, -1, 1), found.histogram[0])
    np.testing.assert_array_equal(found.histogram[2], expected_B / 804)


def test_more_same_pairs_than_may_be_held_are_counted_again(monkeypatch):
    embedding_ND, label_N = clustered(150)
    expected = all_to_all(embedding_ND, label_N, FARS)
    monkeypatch.setattr(module, "MAX_SAME", 10)
    assert equal(all_to_all(embedding_ND, label_N, FARS), expected)


@pytest.mark.parametrize("guess", [0.9, 0.3, -2.0])
def test_a_floor_misjudged_costs_another_scan_and_no_more(monkeypatch, guess):
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    embedding_ND, label_N = clustered(90)
    expected, seen = all_to_all(embedding_ND, label_N, [0.01]), []
    monkeypatch.setattr(scan, "first_floor", lambda *_: seen.append(1) or (guess if len(seen) == 1 else -2.0))
    assert equal(all_to_all(embedding_ND, label_N, [0.01], _plan=SMALL[0]), expected)
    assert len(seen) == (2 if guess == 0.9 else 1)


def test_the_first_floor_is_a_little_below_what_is_needed():
    sample_S = np.linspace(1, -1, 20_000)
    floors = [scan.first_floor(sample_S, 100, 10_000, attempt) for attempt in range(3)]
    assert floors == [sample_S[324], sample_S[1186], -2.0]  # 200, 8 deviations and 10 more; 8 times so many; none
    assert scan.first_floor(sample_S[:5], 1, 10_000, 0) == -2.0


@pytest.mark.parametrize("screening", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 2, 31, 512])
def test_no_pair_at_the_floor_escapes_the_screening(size, screening):
    """Rows whose entries lie just on the far side of half-way between two bfloat16 numbers, all rounded the same way,
    so that errors add up; and each pair's own similarity as the floor."""
    rng = np.random.default_rng(0)
    half_way_R = 2.0 ** -rng.integers(1, 4, 24) * (1 + 2.0**-8 * (2 * rng.integers(0, 4, 24) + 1))
    nudge_R = 1 + rng.choice([-1e-4, 1e-4, 0], 24)
    row_RD = np.abs(rng.choice(half_way_R * nudge_R, (24, 1))) * np.ones((24, size)) * rng.choice([-1, 1], (24, 1))
    row_RD[12:] *= np.where(rng.random((12, size)) < 0.1, 0.33, 1)
    row_RD = row_RD / np.sqrt((row_RD[:1] ** 2).sum())  # before they are made of unit length, as odd as before
    pairs = paired(row_RD, np.arange(24), plan=Plan(24, 24, 8, screening))
    buffer, exact = torch.empty(24 * 24, dtype=screening), unit_rows(row_RD) @ unit_rows(row_RD).T
    for i, j in itertools.combinations(range(24), 2):
        row_P, column_P = possible_pairs(pairs, pairs.blocks[0], buffer, exact[i, j])
        assert (i, j) in set(zip(row_P.tolist(), column_P.tolist(), strict=True))


@pytest.mark.parametrize("screening", [torch.float32, torch.bfloat16], ids=str)
def test_the_bound_is_no_smaller_than_any_error_and_not_absurd(screening):
    rng = np.random.default_rng(3)
    row_RD = rng.standard_normal((200, 512)) + 0.7
    pairs = paired(row_RD, np.arange(200), plan=Plan(200, 256, 128, screening))
    table_ND = pairs.left.table_ND[:200]
    screened = (table_ND @ table_ND.T).double().numpy()
    exact = unit_rows(row_RD) @ unit_rows(row_RD).T
    for floor in (-0.5, 0.0, 0.1, 0.3, 0.6):
        least = float(scan.least(pairs, floor))
        assert screened[exact >= floor].min() >= least
        # 0.02: two roundings to 8 bits (0.0078 together, where each is as bad as can be), and down to a number of 8
        # bits.
        assert floor - least < (0.02 if screening == torch.bfloat16 else 0.001)


@pytest.mark.parametrize("screening", [torch.float32, torch.bfloat16], ids=str)
def test_the_least_screened_value_is_rounded_down(screening):
    """Of rows that lie in the table as they are, the bound is nearly nothing, and the rounding to 8 bits nearly all."""
    pairs = paired(np.eye(8, dtype=np.float32), np.arange(8), plan=Plan(8, 8, 8, screening))
    assert pairs.left.error == 0
    for floor in np.random.default_rng(0).uniform(-1, 1, 100):
        assert float(scan.least(pairs, floor)) <= floor


def test_of_equal_pairs_at_a_floor_that_rose_the_first_rows_are_named(monkeypatch):
    """All pairs are equal, so that the floor is that of all from the first block on; the first rows come in the last
    block.
    """
    monkeypatch.setattr(scan, "SLACK", 0)
    monkeypatch.setattr(scan, "WAITING", 0)
    found = all_to_all(np.ones((40, 8), np.float32), np.arange(40)[::-1], [0.0], num_hardest=3, _plan=SMALL[0])
    assert [pair[1:] for pair in found.hardest_different] == [(0, 1), (0, 2), (0, 3)]


def test_the_points_of_the_curve_are_those_of_scikit_learn():
    """200 rows: the sample is all of them, so that the whole curve is exact. At each FAR the best TAR that ROC has by
    then.
    """
    embedding_ND, label_N = clustered(200)
    found = all_to_all(embedding_ND, label_N, [1e-3, 1e-2])
    similarity, same, _, _ = naive(embedding_ND, label_N)
    false_K, true_K, _ = roc_curve(same, similarity, drop_intermediate=False)
    for far, tar in [*zip(found.far_K, found.tar_K, strict=True), *((point.far, point.tar) for point in found.points)]:
        assert tar == true_K[false_K <= far * (1 + 1e-12)].max()
    assert found.exact_up_to == 1 and len(found.far_K) == 200


def test_the_curve_rises_and_ends_at_one_and_its_sample_is_seeded(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    embedding_ND, label_N = clustered(500, identities=40)
    found, again, other = (all_to_all(embedding_ND, label_N, [1e-3], seed=seed) for seed in (0, 0, 1))
    assert equal(found, again) and found.points == other.points
    assert (np.diff(found.tar_K) >= 0).all() and found.tar_K[-1] == 1 and (found.tar_K != other.tar_K).any()
    exact = found.far_K <= found.exact_up_to
    np.testing.assert_array_equal(found.tar_K[exact], other.tar_K[exact])
    whole = all_to_all(embedding_ND, label_N, [1.0], num_hardest=10**6)
    assert whole.exact_up_to == 1
    # 3,600 sampled pairs, though not independent: at a FAR of 1 % a TAR is off by a few hundredths.
    assert np.abs(found.tar_K - whole.tar_K)[found.far_K > 0.01].max() < 0.1


@pytest.mark.parametrize("max_kept", [10**6, 100], ids=["held", "counted"])
def test_progress_counts_every_block_once(monkeypatch, max_kept):
    embedding_ND, label_N = clustered(90)
    monkeypatch.setattr(module, "MAX_KEPT", max_kept)
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    said, plan = [], Plan(30, 16, 16, torch.float32)
    all_to_all(embedding_ND, label_N, [1e-3, 0.5], progress=lambda *one: said.append(one), _plan=plan)
    num_blocks = 6 + 4 + 2
    assert said == [(done, num_blocks) for done in range(1, num_blocks + 1)]


# --- interrupted

KILLED = """
    import os, signal, sys
    import numpy as np, torch
    torch.set_num_threads(1)
    from zennas.metrics import all_to_all as module, scan
    from zennas.metrics.blocks import Plan
    scan.SAVE_EVERY_S, scan.SAVE_PAUSE, module.SAMPLE_SIDE, module.MAX_KEPT = 0.0, 0, 60, 400
    loaded = np.load(sys.argv[1])
    def progress(done, total):
        if done == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    module.all_to_all(loaded["embedding"], loaded["label"], [1e-3, 0.5], kept=sys.argv[2], progress=progress,
                      _plan=Plan(40, 32, 16, torch.float32))
"""


@pytest.mark.parametrize("killed_at", [2, 9, 13])
def test_a_killed_call_goes_on_to_the_same_end(tmp_path, monkeypatch, killed_at):
    embedding_ND, label_N = clustered(160)
    kept, plan = tmp_path / "state", Plan(40, 32, 16, torch.float32)
    np.savez(tmp_path / "inputs.npz", embedding=embedding_ND, label=label_N)
    ended = forked(textwrap.dedent(KILLED), tmp_path / "inputs.npz", kept, killed_at)
    assert ended.returncode == -signal.SIGKILL and kept.is_file(), ended.stderr
    monkeypatch.setattr(module, "MAX_KEPT", 400)
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    said = []
    resumed = all_to_all(
        embedding_ND, label_N, [1e-3, 0.5], kept=kept, progress=lambda *one: said.append(one), _plan=plan
    )
    assert said[0][0] == killed_at + 1  # the block before the kill is kept
    assert said[-1] == (14, 14)  # and all that was found by then: no second scan
    assert equal(resumed, all_to_all(embedding_ND, label_N, [1e-3, 0.5], _plan=plan))
    assert not kept.exists()


def interrupted(kept, embedding_ND, label_N, fars=(0.01,), at=5, **options):
    def progress(done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        all_to_all(embedding_ND, label_N, fars, kept=kept, progress=progress, _plan=SMALL[0], **options)
    assert kept.is_file()


@pytest.mark.parametrize("change", ["embedding", "label", "fars", "against", "no state at all"])
def test_the_state_of_other_inputs_is_no_state(tmp_path, monkeypatch, change):
    monkeypatch.setattr(scan, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(scan, "SAVE_PAUSE", 0)
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    (embedding_ND, label_N), kept, said, fars, options = clustered(90), tmp_path / "state", [], [0.01], {}
    interrupted(kept, embedding_ND.copy(), label_N)
    if change == "embedding":
        embedding_ND[-1, -1] += 1
    elif change == "label":
        label_N = np.where(np.arange(90) == 89, 50, label_N)
    elif change == "fars":
        fars = [0.3]
    elif change == "against":
        options = {"against": (embedding_ND, label_N)}
    else:
        kept.write_bytes(kept.read_bytes()[:-40])
    found = all_to_all(
        embedding_ND, label_N, fars, kept=kept, progress=lambda *one: said.append(one), _plan=SMALL[0], **options
    )
    assert said[0][0] == 1 and equal(found, all_to_all(embedding_ND, label_N, fars, **options))


def test_an_interruption_in_the_second_scan(tmp_path, monkeypatch):
    """The first floor was too high; the state is of the second attempt, and the third call knows that."""
    monkeypatch.setattr(scan, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(scan, "SAVE_PAUSE", 0)
    monkeypatch.setattr(module, "SAMPLE_SIDE", 60)
    embedding_ND, label_N = clustered(90)
    expected = all_to_all(embedding_ND, label_N, [0.01])
    monkeypatch.setattr(scan, "first_floor", lambda *given: -2.0 if given[-1] else 0.99)
    num_blocks, said = len(paired(embedding_ND, label_N, plan=SMALL[0]).blocks), []
    interrupted(tmp_path / "state", embedding_ND, label_N, at=num_blocks + 5)
    again = {"kept": tmp_path / "state", "progress": lambda *one: said.append(one), "_plan": SMALL[0]}
    found = all_to_all(embedding_ND, label_N, [0.01], **again)
    assert said[0] == (num_blocks + 6, 2 * num_blocks) and equal(found, expected)


# --- what users give


def test_a_memmap_is_read_and_nothing_given_is_changed(tmp_path):
    embedding_ND, label_N = clustered(90)
    np.save(tmp_path / "rows.npy", embedding_ND)
    mapped, labels = np.load(tmp_path / "rows.npy", mmap_mode="r"), label_N.copy()
    assert equal(all_to_all(mapped, labels, FARS, _plan=SMALL[2]), all_to_all(embedding_ND, label_N, FARS))
    np.testing.assert_array_equal(mapped, embedding_ND)
    np.testing.assert_array_equal(labels, label_N)


def test_settings_of_products_hold_for_the_call_alone():
    """Medium: float32 products may be those of bfloat16, for which the bound of float32 would not hold."""
    cuda, seen = torch.backends.cuda.matmul, set()
    before = cuda.allow_bf16_reduced_precision_reduction

    def settings_now(*_):
        seen.add((torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction))

    torch.set_float32_matmul_precision("medium")
    try:
        all_to_all(*clustered(90), [0.01], progress=settings_now)
        assert seen == {("highest", False)}
        assert (torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction) == ("medium", before)
    finally:
        torch.set_float32_matmul_precision("highest")


ROWS, LABELS = np.eye(4, 8, dtype=np.float32), np.arange(4)


@pytest.mark.parametrize(
    "given, said",
    [
        ((ROWS, LABELS[:3], [0.1]), r"4 rows with labels int64 of shape \(3,\)"),
        ((ROWS, LABELS / 2, [0.1]), "4 rows with labels float64"),
        ((ROWS[0], LABELS, [0.1]), r"float32 of shape \(8,\)"),
        ((ROWS.astype(int), LABELS, [0.1]), "int64 of shape"),
        ((ROWS[:0], LABELS[:0], [0.1]), r"shape \(0, 8\)"),
        ((ROWS, LABELS, [0.1, 1.5]), "far 1.5: allowed"),
        ((ROWS, LABELS, [math.nan]), "far nan: allowed"),
        (
            (np.where(np.arange(32).reshape(4, 8) == 17, np.nan, ROWS), LABELS, [0.1]),
            "embeddings, row 2: is not finite",
        ),
        (
            (np.where(np.arange(32).reshape(4, 8) == 25, np.inf, ROWS), LABELS, [0.1]),
            "embeddings, row 3: is not finite",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        all_to_all(*given)


def test_two_sides_that_do_not_fit_are_refused():
    for against, said in (
        ((ROWS[:, :7], LABELS), "equal"),
        ((ROWS, LABELS[:2]), "those against them: 4 rows with labels"),
    ):
        with pytest.raises(UserError, match=said):
            all_to_all(ROWS, LABELS, [0.1], against=against)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(UserError, match="device cuda: there is no GPU"):
        all_to_all(ROWS, LABELS, [0.1], device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("max_kept", [20_000_000, 1000], ids=["held", "counted"])
@pytest.mark.parametrize("screening", [None, torch.float32], ids=["own", "float32"])
def test_a_gpu_says_the_same_to_the_last_bit(monkeypatch, max_kept, screening):
    monkeypatch.setattr(module, "MAX_KEPT", max_kept)
    embedding_ND, label_N = clustered(5000, size=512, identities=300)
    plan = screening and Plan(1024, 2048, 128, screening)
    on_gpu = all_to_all(embedding_ND, label_N, [1e-6, 1e-4, 1e-2], device="cuda", _plan=plan)
    assert equal(on_gpu, all_to_all(embedding_ND, label_N, [1e-6, 1e-4, 1e-2]))
