import csv
import itertools
import random

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.latency.conftest import write_table
from tests.shapes import square
from zennas.latency.budget import measure_network
from zennas.latency.protocol import Measurement
from zennas.latency.table import QUANTUM, LatencyTable, Part, parts_of, parts_of_space, table_name
from zennas.latency.tables import tables_in
from zennas.provenance import versions
from zennas.records import SPACES, UserError, names
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.shape import Shape
from zennas.space.space import Space
from zennas.track import Protocol, load_space

CPU = Protocol(backend="onnxruntime-cpu", num_runs=5, kth_fastest=1)
ORT = versions().get("onnxruntime-gpu") or versions()["onnxruntime"]
SMALL = Candidate(block="ir", stem=16, widths=(16, 48), depths=(1, 3))
SIZES = {"shape": square(32, 64)}
MS_PER_MAC = 1e-6


def write_rows(folder, ms_of, *, machine="a-machine", runtime=ORT):
    """A kept table of {Part: ms}, as if it had been measured."""
    write_table(folder / table_name(CPU), ms_of, machine=machine, runtime=runtime)


def opened(folder, ms_of=None):
    if ms_of is not None:
        write_rows(folder, ms_of)
    return LatencyTable(CPU, folder=folder, machine="a-machine")


class Device:
    """Stands where a device measures parts: counts them, answers what a part costs by its MACs."""

    def __init__(self):
        self.asked = []

    def __call__(self, part, protocol, *, num_runs):
        self.asked.append(part)
        ms = part.macs * MS_PER_MAC
        measurement = Measurement(
            raw_ms=(ms,) * num_runs,
            protocol=protocol.with_runs(num_runs),
            machine="a-machine",
            date="2026-01-01",
            versions=versions(),
            load_average=0.0,
        )
        return ms, measurement


def odd_ms(part):
    """A cost that no two parts share and that nothing could be interpolated to by chance."""
    return hash(part) % 10_000 / 100 + 1


def test_a_prediction_is_the_sum_of_its_parts(tmp_path):
    candidate = Candidate(block="ir", stem=16, widths=(16, 48, 48), depths=(1, 3, 2))
    table = opened(tmp_path, {part: odd_ms(part) for part in parts_of(candidate, **SIZES)})
    total_ms, channels, px = odd_ms(Part("stem", 3, 16, 1, 32, 32)), 16, 32
    for width, depth in ((16, 1), (48, 3), (48, 2)):
        for block in range(depth):
            stride = 2 if block == 0 else 1
            total_ms += odd_ms(Part("ir", channels, width, stride, px, px))
            channels, px = width, px // stride
    total_ms += odd_ms(Part("neck", 48, 64, 1, px, px))
    assert px == 4
    assert table.predict(candidate, **SIZES) == pytest.approx(total_ms, rel=1e-12)  # the order of a sum


def repeated(width, px=16):
    return Part("ir", width, width, 1, px, px)


def repeated_macs(width, px=16):
    return 2 * 9 * width * width * px * px


def share(table, part):
    """The predicted milliseconds of one part, as the difference of two candidates that differ by it alone."""
    one, two = (Candidate(block="ir", stem=16, widths=(part.out_channels,), depths=(depth,)) for depth in (2, 3))
    return table.predict(two, **SIZES) - table.predict(one, **SIZES)


@pytest.mark.parametrize(
    "width, rate",
    [(16, 1.0), (32, 2.0), (64, 4.0), (48, 2 + 2 * 2 / 3), (8, 7.0), (40, 9.0), (24, 7 + 2 * 5 / 6)],
    ids=["low end", "measured", "high end", "between", "off low", "off high", "off between"],
)
def test_a_width_between_two_measured_ones_is_interpolated_per_mac(tmp_path, width, rate):
    """Over the inverse of the width: by hand, 1/48 lies at two thirds of the way from 1/32 to 1/64, 1/24 at five sixths
    of it from 1/8 to 1/40."""
    rates = {16: 1.0, 32: 2.0, 64: 4.0, 8: 7.0, 40: 9.0}  # widths off the quantum know only each other
    ms_of = {repeated(w): r * MS_PER_MAC * repeated_macs(w) for w, r in rates.items()}
    around = {part: 1.0 for part in parts_of(Candidate(block="ir", stem=16, widths=(width,), depths=(1,)), **SIZES)}
    table = opened(tmp_path, ms_of | around)
    assert share(table, repeated(width)) == pytest.approx(rate * MS_PER_MAC * repeated_macs(width), rel=1e-9)


@pytest.mark.parametrize("width", [96, 80, 56])
def test_what_cannot_be_interpolated_is_not_guessed(tmp_path, width):
    ms_of = {repeated(w): 1.0 for w in (16, 32, 64, 8, 40)}
    candidate = Candidate(block="ir", stem=16, widths=(width,), depths=(2,))
    around = {part: 1.0 for part in parts_of(candidate, **SIZES) if part != repeated(width)}
    table = opened(tmp_path, ms_of | around)
    assert not table.covers(candidate, **SIZES)
    with pytest.raises(KeyError):
        table.predict(candidate, **SIZES)


def rounded_up(candidate):
    """The candidate with every width at the next multiple of the quantum."""
    up = lambda width: -(-width // QUANTUM) * QUANTUM  # noqa: E731
    return candidate.model_copy(update={"stem": up(candidate.stem), "widths": tuple(map(up, candidate.widths))})


def lost_shortcuts(candidate, shape):
    """MACs of the 1x1 shortcuts of stride 1 that the rounded-up candidate has not: its two widths became one."""
    firsts = [
        (part, times)
        for part, times in parts_of(candidate, shape).items()
        if part.stride == 1 and part.is_block and not part.keeps_shape
    ]
    wide = [(-(-part.out_channels // QUANTUM) * QUANTUM, part, times) for part, times in firsts]
    return sum(
        times * width**2 * part.in_height * part.in_width
        for width, part, times in wide
        if width == -(-part.in_channels // QUANTUM) * QUANTUM
    )


# What a user's own space may hold: a quantum never met, met in some widths only, ends off it, one width alone.
OWN_SPACES = {
    "steps of 8": ((8, 40, 8), (8, 32, 8), (16, 72, 8)),
    "steps of 4": ((8, 32, 4), (12, 36, 4), (20, 60, 4)),
    "one width": ((16, 16, 1), (24, 24, 1), (48, 48, 1)),
}


def own_space(name):
    stem, *widths = ({"low": low, "high": high, "step": step} for low, high, step in OWN_SPACES[name])
    values = {"name": name, "block": "ir", "image_px": 32, "embedding_size": 64, "stem": stem, "widths": widths}
    values |= {"depths": [{"low": 1, "high": 4}] * 2, "limits": {"max_blocks": 8, "max_effectiveness": 1.0}}
    return Space.parse(values, name)


@pytest.fixture(params=[*names(SPACES), *OWN_SPACES], scope="module")
def covered(request, tmp_path_factory):
    """(space, a table of its parts on a machine where time is proportional to MACs)."""
    space = own_space(request.param) if request.param in OWN_SPACES else load_space(request.param)
    folder = tmp_path_factory.mktemp("covered")
    return space, opened(folder, {part: part.macs * MS_PER_MAC for part in parts_of_space(space)})


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_a_space_is_covered_by_its_parts(covered, seed):
    space, table = covered
    candidate = space.sample(np.random.default_rng(seed))
    sizes = {"shape": space.shape}
    predicted_ms = table.predict(candidate, **sizes)
    # Where time is proportional to MACs, so is the prediction, but for a stem and first blocks off the quantum, which
    # count as the next width on it; least squares over values that differ by 10^4 keep five digits.
    low, high = (cost(one, **sizes).macs * MS_PER_MAC for one in (candidate, rounded_up(candidate)))
    high += lost_shortcuts(candidate, space.shape) * MS_PER_MAC
    assert low * (1 - 1e-5) <= predicted_ms <= high * (1 + 1e-5)


@pytest.mark.parametrize("name", names(SPACES))
def test_the_table_of_a_space_is_small(name):
    assert len(parts_of_space(load_space(name))) <= 160  # at about half a second each: under two minutes, once


def test_only_what_is_missing_is_measured_and_it_is_kept(tmp_path):
    parts = list(parts_of(SMALL, **SIZES))
    device, counted = Device(), []
    table = opened(tmp_path)
    table.ensure(parts[:2], num_runs=3, measure_one=device)
    table.ensure(parts, num_runs=3, measure_one=device, progress=lambda *state: counted.append(state))
    assert device.asked == parts  # each once, in order
    assert counted == [(done, len(parts) - 2) for done in range(1, len(parts) - 1)]
    again, untouched = opened(tmp_path), Device()
    again.ensure(parts, measure_one=untouched)
    assert untouched.asked == [] and again.missing(parts) == []
    assert again.predict(SMALL, **SIZES) == pytest.approx(table.predict(SMALL, **SIZES), rel=1e-3)  # kept to 10 ns
    with open(again.path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [len(row["raw_ms"].split()) for row in rows] == [3] * len(parts)
    assert {(row["machine"], row["runtime"]) for row in rows} == {("a-machine", ORT)}


class Disturbed(Device):
    """A Device on which other work falls on one part, the first time that it is measured."""

    def __init__(self, part, times=3.0, *, always=False):
        super().__init__()
        self.part, self.times, self.always = part, times, always

    def __call__(self, part, protocol, *, num_runs):
        burst = part == self.part and (self.always or part not in self.asked)
        ms, measurement = super().__call__(part, protocol, num_runs=num_runs)
        return ms * (self.times if burst else 1.0), measurement


BESIDE = [repeated(width) for width in (16, 32, 48, 64)]


@pytest.mark.parametrize("times", [0.7, 1.5])
@pytest.mark.parametrize("at", range(4))
def test_a_part_on_which_other_work_fell_is_measured_again(tmp_path, at, times):
    device, counted = Disturbed(BESIDE[at], times), []
    table = opened(tmp_path)
    table.ensure(BESIDE, measure_one=device, progress=lambda *state: counted.append(state))
    assert device.asked[:4] == BESIDE and device.asked.count(BESIDE[at]) == 3
    assert all(table.rows[part] == pytest.approx(MS_PER_MAC * part.macs) for part in BESIDE)
    assert counted[3] == (4, 4) and counted[-1] == (len(device.asked),) * 2
    assert opened(tmp_path).rows == pytest.approx(table.rows, rel=1e-3) and opened(tmp_path).doubted(BESIDE) == []
    (known,) = tables_in(table.path)  # whoever takes the file elsewhere gets the same
    assert {part: row.ms for part, row in known.rows.items()} == pytest.approx(table.rows, rel=1e-3)


def test_a_part_that_is_so_is_kept_as_it_was_measured(tmp_path):
    device = Disturbed(BESIDE[1], 2.0, always=True)
    table = opened(tmp_path)
    table.ensure(BESIDE, measure_one=device)
    assert table.rows[BESIDE[1]] == pytest.approx(2 * MS_PER_MAC * BESIDE[1].macs)
    num = len(device.asked)
    table.ensure(BESIDE, measure_one=device)
    assert len(device.asked) == num  # nothing is measured more than three times


def test_a_doubt_that_is_interrupted_is_gone_into_by_the_next_command(tmp_path):
    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path).ensure(BESIDE, measure_one=Disturbed(BESIDE[1]), progress=interrupt)
    again, device = opened(tmp_path), Device()
    again.ensure(BESIDE, measure_one=device)
    assert BESIDE[1] in device.asked and again.rows[BESIDE[1]] == pytest.approx(MS_PER_MAC * BESIDE[1].macs, rel=1e-3)


def test_a_stage_s_first_block_is_doubted_beside_the_others_of_its_place(tmp_path):
    firsts = [Part("ir", wide_in, wide_out, 2, 32, 32) for wide_in in (16, 32, 64) for wide_out in (16, 32, 64)]
    device = Disturbed(firsts[4], 2.0)
    table = opened(tmp_path)
    table.ensure(firsts, measure_one=device)
    assert device.asked.count(firsts[4]) == 3
    assert all(table.rows[part] == pytest.approx(MS_PER_MAC * part.macs) for part in firsts)


@pytest.mark.parametrize("name", names(SPACES))
def test_whatever_a_space_and_its_baselines_have_can_be_doubted(tmp_path, name):
    """Also a neck without weights, of which nothing is told by multiply-accumulates."""
    space, table, chance = load_space(name), opened(tmp_path), random.Random(0)

    def noisy(part, protocol, *, num_runs):
        _, measurement = Device()(repeated(16), protocol, num_runs=num_runs)
        return (part.macs + 1) * MS_PER_MAC * chance.choice([1.0, 1.0, 1.0, 1.5]), measurement

    parts = table.parts_for(space)
    table.ensure(parts, measure_one=noisy)
    assert table.missing(parts) == table.doubted(parts) == []
    assert all(table.covers(baseline, space.shape) for baseline in space.baselines.values())


def test_what_was_not_measured_here_is_not_doubted(tmp_path):
    table = LatencyTable(CPU, folder=tmp_path, rows=dict.fromkeys(BESIDE, 1.0))
    assert table.doubted(BESIDE) == []


def test_a_new_measurement_changes_what_was_interpolated(tmp_path):
    candidate = Candidate(block="ir", stem=16, widths=(32,), depths=(2,))
    around = {part: 1.0 for part in parts_of(candidate, **SIZES) if part != repeated(32)}
    table = opened(tmp_path, around | {repeated(w): MS_PER_MAC * repeated_macs(w) for w in (16, 64)})
    before_ms = table.predict(candidate, **SIZES)
    table.ensure([repeated(32)], measure_one=lambda *_, num_runs: (100.0, Device()(repeated(32), CPU, num_runs=1)[1]))
    assert table.predict(candidate, **SIZES) == pytest.approx(before_ms - MS_PER_MAC * repeated_macs(32) + 100)


def test_what_was_measured_before_an_interruption_is_kept(tmp_path):
    parts = list(parts_of(SMALL, **SIZES))

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path).ensure(parts, measure_one=Device(), progress=interrupt)
    again = opened(tmp_path)
    assert list(again.rows) == parts[:3]
    device = Device()
    again.ensure(parts, measure_one=device)
    assert device.asked == parts[3:]


def test_an_empty_file_left_by_a_full_disk_is_begun_anew(tmp_path):
    (tmp_path / table_name(CPU)).touch()
    opened(tmp_path).ensure(parts_of(SMALL, **SIZES), measure_one=Device())
    assert opened(tmp_path).covers(SMALL, **SIZES)


def test_maps_that_are_no_squares_are_kept_in_the_columns_of_old(tmp_path):
    """48x16 in in_px, behind rows of squares in a file of old; a table of such maps predicts no squares."""
    shape, old = Shape(channels=1, height=48, width=16, embedding_size=8), list(parts_of(SMALL, **SIZES))
    opened(tmp_path, dict.fromkeys(old, 1.0))
    table, parts = opened(tmp_path), list(parts_of(SMALL, shape))
    before = table.path.read_text()
    table.ensure(parts, measure_one=Device())
    assert table.path.read_text().startswith(before)
    again = opened(tmp_path)
    assert again.covers(SMALL, shape) and again.covers(SMALL, **SIZES)
    assert not again.covers(SMALL, shape.sized((16, 48))) and again.rows.keys() == {*old, *parts}
    known = tables_in(table.path)[0]
    assert set(known.rows) == {*old, *parts}
    with open(table.path, newline="") as file:
        assert {row["in_px"] for row in csv.DictReader(file)} >= {"32", "48x16", "24x8"}


@pytest.mark.parametrize("origin", [{"runtime": "1.6.0"}, {"machine": "another-machine"}])
def test_rows_of_another_runtime_or_machine_do_not_hold(tmp_path, origin):
    parts = list(parts_of(SMALL, **SIZES))
    write_rows(tmp_path, dict.fromkeys(parts, 99.0), **origin)
    table = opened(tmp_path)
    assert table.missing(parts) == parts
    table.ensure(parts, measure_one=Device())
    assert opened(tmp_path).predict(SMALL, **SIZES) < 99


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(data=st.data())
def test_a_row_torn_by_a_kill_is_measured_again(tmp_path_factory, data):
    folder, parts = tmp_path_factory.mktemp("torn"), list(parts_of(SMALL, **SIZES))
    opened(folder).ensure(parts, measure_one=Device())
    path = folder / table_name(CPU)
    last_row = path.read_bytes().splitlines(keepends=True)[-1]
    path.write_bytes(path.read_bytes()[: -data.draw(st.integers(1, len(last_row)))])
    assert set(opened(folder).missing(parts)) <= {parts[-1]}
    for _ in range(2):  # the row that is written behind a torn one may share its line
        opened(folder).ensure(parts, measure_one=Device())
    assert opened(folder).missing(parts) == []


@pytest.mark.parametrize(
    "line", ["ir,16,16,1,16,fast,1,1,a-machine,d,ORT,t", "ir,16,16,one,16,1.0,1,1,a-machine,d,ORT,t"]
)
def test_a_broken_table_is_the_users_error(tmp_path, line):
    write_rows(tmp_path, {repeated(16): 1.0})
    with open(tmp_path / table_name(CPU), "a") as file:
        file.write(line.replace("ORT", ORT) + "\n")
    with pytest.raises(UserError, match=rf"{table_name(CPU)}, line 3: not a row of a latency table; delete the file"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path):
    (tmp_path / "a-file").touch()
    table = LatencyTable(CPU, folder=tmp_path / "a-file" / "folder", machine="a-machine")
    with pytest.raises(UserError, match=r"a-file.*cannot be kept: .*; set ZENNAS_CACHE to a writable folder"):
        table.ensure(parts_of(SMALL, **SIZES), measure_one=Device())


def test_protocols_that_time_differently_share_no_table():
    changes = itertools.product(("onnxruntime-cpu", "torch-cuda"), (1, 2), (1, 8), (True, False))
    keys = ("backend", "threads", "batch", "flush_denormals")
    found = {table_name(CPU.model_copy(update=dict(zip(keys, change, strict=True)))) for change in changes}
    assert len(found) == 16


TALL = Candidate(block="ir_se", stem=16, widths=(32, 64), depths=(3, 4))
BRANCHED = Candidate(
    family="mgn",
    form={"strides": [1, 2, 1, 1, 2]},
    block="resnet_basic",
    stem=16,
    widths=(16, 32, 48, 48, 96),
    depths=(2, 2, 1, 1, 2),
)


@pytest.mark.alone
@pytest.mark.parametrize(
    "candidate, shape",
    [(TALL, SIZES["shape"]), (BRANCHED, Shape(channels=3, height=128, width=64, embedding_size=512))],
)
def test_a_sum_of_measured_parts_is_near_the_whole_measured(tmp_path, candidate, shape):
    table = LatencyTable(CPU, folder=tmp_path)
    table.ensure(parts_of(candidate, shape), num_runs=10)
    whole = measure_network(candidate, CPU.with_runs(50), shape)
    # Within some per cent, on a quiet machine. With a call in each of the parts of the branches, and caches that hold
    # nothing of them, it would be three times too large; below the half one would be missing.
    assert 0.5 < table.predict(candidate, shape) / whole.measured_ms < 2
