import itertools

import pytest

from tests.latency.conftest import write_table
from tests.shapes import square
from zennas.latency.backends import BACKENDS
from zennas.latency.table import COLUMNS, LatencyTable, kept_folder, table_name
from zennas.latency.tables import find_table, import_table, known_tables, open_table, protocol_of, read_rows
from zennas.provenance import machine_name
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.parts import Part, parts_of
from zennas.track import Precision, Protocol

CUDA = Protocol(backend="onnxruntime-cuda")
NAME = "onnxruntime-cuda-1t-batch1.csv"
SMALL = Candidate(block="ir", stem=16, widths=(16, 48), depths=(1, 3))
SIZES = {"shape": square(32, 64)}
MS = {part: 0.5 + index for index, part in enumerate(parts_of(SMALL, **SIZES))}
TOTAL_MS = sum(times * MS[part] for part, times in parts_of(SMALL, **SIZES).items())


def others():
    """The known tables that are not shipped."""
    return [table for table in known_tables() if table.origins != ("shipped",)]


# --- names


def test_a_table_s_name_says_its_protocol_and_the_protocol_its_name():
    changes = itertools.product(BACKENDS, (1, 16), (1, 8), (True, False), Precision.__args__)
    for backend, threads, batch, flush_denormals, precision in changes:
        rule = {"backend": backend, "threads": threads, "batch": batch, "flush_denormals": flush_denormals}
        protocol = Protocol(**rule, precision=precision)
        assert protocol_of(table_name(protocol)) == protocol


@pytest.mark.parametrize(
    "name", ["jetson.csv", "gpu-1t-batch1.csv", "torch-cuda-0t-batch1.csv", "torch-cuda-1t-batch1-int4.csv", ".csv"]
)
def test_what_is_no_table_s_name_says_nothing(name):
    assert protocol_of(name) is None


def test_float32_tables_keep_the_names_that_they_had():
    assert table_name(Protocol(backend="onnxruntime-cpu")) == "onnxruntime-cpu-1t-batch1.csv"
    assert table_name(Protocol(backend="onnxruntime-cpu", precision="int8")) == "onnxruntime-cpu-1t-batch1-int8.csv"


# --- what is known


def test_the_shipped_table_is_known_and_read_as_it_is(cache):
    (one,) = [table for table in known_tables() if table.machine == "amd-epyc-fam26-mod2-2c"]
    assert one.origins == ("shipped",) and one.protocol == Protocol(backend="onnxruntime-cpu") and len(one.rows) > 100
    assert one.name == f"amd-epyc-fam26-mod2-2c/onnxruntime-cpu-1t-batch1@{one.runtime}"


def test_what_is_kept_for_a_part_counts_more_than_what_is_shipped(cache):
    (shipped,) = known_tables()
    part = next(iter(shipped.rows))
    path = kept_folder(shipped.machine) / table_name(shipped.protocol)
    write_table(path, {part: 77.0}, machine=shipped.machine, runtime=shipped.runtime)
    (both,) = known_tables()
    assert both.origins == ("shipped", "kept") and len(both.rows) == len(shipped.rows)
    assert {part for part, row in both.rows.items() if row.ms != shipped.rows[part].ms} == {part}


def test_machines_rules_and_versions_are_tables_of_their_own(cache):
    for machine, name, runtime in itertools.product("ab", (NAME, NAME.replace("1t", "2t")), ("1.6.0", "1.7.0")):
        write_table(kept_folder(machine) / name, MS, machine=machine, runtime=runtime)
    write_table(kept_folder("a") / NAME, MS, machine="stray")  # in a's folder, but not a's
    (kept_folder("a") / "notes.csv").write_text("nothing of ours\n")
    assert len(others()) == 8 and {len(other.rows) for other in others()} == {len(MS)}
    assert {other.machine for other in others()} == {"a", "b"}


def test_a_line_torn_by_a_kill_hides_no_table(cache):
    path = write_table(kept_folder("a-gpu") / NAME, MS)
    whole = path.read_bytes()
    for lost in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-lost])
        (one,) = others()
        assert len(MS) - 1 <= len(one.rows) <= len(MS) and one.runtime == "1.6.0"
    path.write_bytes(whole[:-9] + whole.splitlines(keepends=True)[2])  # what was written next shares the torn line
    assert len(others()[0].rows) == len(MS) - 1


# --- finding and opening one


@pytest.fixture
def two(cache):
    """Kept tables of one other machine by two rules, and of a second one by one."""
    write_table(kept_folder("a-gpu") / NAME, MS)
    write_table(kept_folder("a-gpu") / NAME.replace("1t", "4t"), {part: 2 * ms for part, ms in MS.items()})
    write_table(
        kept_folder("a-phone") / "onnxruntime-cpu-1t-batch1.csv",
        {part: 9 * ms for part, ms in MS.items()},
        machine="a-phone",
    )


@pytest.mark.parametrize(
    "name, factor",
    [
        ("a-phone", 9),
        ("phone", 9),
        ("a-phone/onnxruntime-cpu-1t-batch1", 9),
        ("a-phone/onnxruntime-cpu-1t-batch1@1.6.0", 9),
        ("4t", 2),
        ("a-gpu/onnxruntime-cuda-1t-batch1", 1),
    ],
)
def test_a_table_is_found_by_what_only_it_is_called(two, name, factor):
    assert open_table(name).predict(SMALL, **SIZES) == pytest.approx(factor * TOTAL_MS, rel=1e-12)  # the order of a sum


def test_a_protocol_says_which_of_a_machine_s_tables(two):
    for threads, factor in ((1, 1), (4, 2)):
        protocol = CUDA.model_copy(update={"threads": threads, "num_runs": 20})
        table = open_table("a-gpu", protocol)
        assert table.predict(SMALL, **SIZES) == pytest.approx(factor * TOTAL_MS, rel=1e-12)
        assert (table.machine, table.protocol) == ("a-gpu", protocol)
    with pytest.raises(
        UserError, match=r"a-phone/.* another rule: onnxruntime-cpu-1t-batch1, wanted onnxruntime-cuda-1t-batch1"
    ):
        open_table("a-phone", CUDA)


def test_an_unknown_or_ambiguous_name_is_refused_with_what_there_is(two):
    with pytest.raises(
        UserError, match=r"'a-gpu' may be any of 2 latency tables: a-gpu/\S+1t-batch1@1.6.0, a-gpu/\S+4t-"
    ):
        open_table("a-gpu")
    with pytest.raises(
        UserError, match=r"latency table 'a-tpu' is not known; .*known: a-gpu/.*a-phone/.*path of a \.csv"
    ):
        open_table("a-tpu")


def test_versions_of_one_file_are_told_apart(tmp_path):
    path = write_table(tmp_path / NAME, MS)
    write_table(path, {part: 3 * ms for part, ms in MS.items()}, runtime="1.7.0")
    assert open_table(f"{path}@1.7.0").predict(SMALL, **SIZES) == pytest.approx(3 * TOTAL_MS, rel=1e-12)
    with pytest.raises(UserError, match="may be any of 2"):
        open_table(str(path))
    with pytest.raises(UserError, match=r"no row was measured with version '1\.8'; known: 1\.6\.0, 1\.7\.0"):
        open_table(f"{path}@1.8")


def test_a_file_whose_name_says_no_rule_takes_the_one_that_is_given(tmp_path):
    path = write_table(tmp_path / "jetson.csv", MS, columns=COLUMNS[:6])
    assert find_table(str(path), CUDA).protocol == CUDA
    table = open_table(str(path), CUDA)
    assert table.machine == "jetson" != machine_name()
    assert table.predict(SMALL, **SIZES) == pytest.approx(TOTAL_MS, rel=1e-12)
    with pytest.raises(UserError, match=r"jetson\.csv: its name does not say by which rule"):
        open_table(str(path))


def test_another_machine_s_table_is_not_filled_here(two):
    table = open_table("a-phone")
    path, missing = kept_folder("a-phone") / table_name(table.protocol), Part("ir", 64, 64, 1, 8, 8)
    before = path.read_bytes()
    assert table.missing([missing]) == [missing]
    with pytest.raises(
        UserError, match=rf"table of a-phone lacks .*64.*; this is {machine_name()}: fill the table there"
    ):
        table.ensure([missing], num_runs=1)
    assert path.read_bytes() == before and table.missing([missing]) == [missing]


def test_what_is_kept_of_others_is_not_this_machine_s(two):
    assert LatencyTable(CUDA).rows == {}


# --- importing


def test_an_imported_table_is_kept_whole_under_its_machine_s_name(cache, tmp_path):
    path = write_table(tmp_path / NAME, MS)
    write_table(path, MS, runtime="1.7.0")
    for _ in range(2):  # the same file again changes nothing
        target, found = import_table(path)
        assert target == cache / "measured" / "a-gpu" / NAME
        assert read_rows(target) == read_rows(path)
        assert [other.name for other in others()] == [one.name for one in found]
    assert open_table("a-gpu/onnxruntime-cuda-1t-batch1@1.7.0").predict(SMALL, **SIZES) == pytest.approx(
        TOTAL_MS, rel=1e-12
    )


def test_a_table_of_this_very_kind_of_machine_needs_another_name(cache, tmp_path):
    path = write_table(tmp_path / NAME, MS, machine=machine_name())
    with pytest.raises(UserError, match=f"{machine_name()} is this machine's own name"):
        import_table(path)
    with pytest.raises(UserError, match="this machine's own name"):
        import_table(path, machine=machine_name())
    target, (one,) = import_table(path, machine="its-twin")
    assert target.parent.name == "its-twin" and {row.machine for row in read_rows(target)} == {"its-twin"}
    assert LatencyTable(one.protocol).rows == {} and others()[0].machine == "its-twin"


def test_the_least_a_file_may_say_is_parts_and_milliseconds(cache, tmp_path):
    path = write_table(tmp_path / "jetson.csv", MS, columns=tuple(reversed(COLUMNS[:6])))  # in any order
    with pytest.raises(UserError, match=r"do not name their machine; give it a name with --machine"):
        import_table(path, protocol=CUDA)
    with pytest.raises(
        UserError, match=r"jetson\.csv: its name does not say by which rule.*onnxruntime-cpu-1t-batch1\.csv"
    ):
        import_table(path, machine="jetson")
    target, _ = import_table(path, machine="jetson", protocol=CUDA)
    assert target.name == NAME
    (row, *_) = read_rows(target)
    assert (row.machine, row.spread_pct, row.date, row.runtime) == ("jetson", None, "", "")
    assert others()[0].name == "jetson/onnxruntime-cuda-1t-batch1"


def test_of_several_machines_in_a_file_one_is_asked_for(cache, tmp_path):
    path = write_table(tmp_path / NAME, MS)
    write_table(path, {next(iter(MS)): 5.0}, machine="a-tpu")
    for machine in (None, "a-phone"):
        with pytest.raises(UserError, match="rows of several machines: a-gpu, a-tpu; say which with --machine"):
            import_table(path, machine=machine)
    target, _ = import_table(path, machine="a-tpu")
    assert [row.ms for row in read_rows(target)] == [5.0]


def test_a_kept_table_is_not_written_over(cache, tmp_path):
    target, _ = import_table(write_table(tmp_path / NAME, MS))
    before = target.read_bytes()
    changed = write_table(tmp_path / "new" / NAME, dict.fromkeys(MS, 1.0))
    with pytest.raises(UserError, match=r"another table of a-gpu is kept already; delete it, or"):
        import_table(changed)
    assert target.read_bytes() == before
    import_table(changed, machine="a-gpu-2")
    assert len(others()) == 2


@pytest.mark.parametrize("name", ["A GPU", "../x", ".hidden", "a/b"])
def test_a_machine_s_name_must_do_for_a_folder(cache, tmp_path, name):
    path = write_table(tmp_path / NAME, MS)
    with pytest.raises(UserError, match=r"--machine '.*': allowed: small letters"):
        import_table(path, machine=name)
    assert not cache.exists()


HEAD = ",".join(COLUMNS[:6])
GOOD = "ir,16,16,1,16,0.5"
WRONG_FILES = {
    "no file": (None, "cannot be read: No such file"),
    "empty": ("", r"not a latency table: column\(s\) kind, .*ms missing; the file is empty"),
    "no table": ("\x89PNG\r\n", "not a latency table"),
    "another table": (
        "name,latency\nir,3\n",
        r"not a latency table: column\(s\) kind, .* missing; given: name, latency",
    ),
    "one column short": (
        HEAD.replace(",ms", "") + "\nir,16,16,1,16\n",
        r"not a latency table: column\(s\) ms missing; given: kind, ",
    ),
    "no rows": (HEAD + "\n", "the table has no rows"),
    "a field too few": (f"{HEAD}\n{GOOD}\nir,16,16,1\n", "line 3: .*more or fewer fields"),
    "a field too many": (f"{HEAD}\n{GOOD},7\n", "line 2: .*more or fewer fields"),
    "an unknown block": (f"{HEAD}\nir_sse,16,16,1,16,0.5\n", r"line 2: .*'ir_sse' is not known; did you mean 'ir_se'"),
    "a width in words": (
        f"{HEAD}\nir,wide,16,1,16,0.5\n",
        "line 2: .*in_channels: given 'wide', allowed: a whole number",
    ),
    "a width of 0": (f"{HEAD}\nir,16,0,1,16,0.5\n", "line 2: .*out_channels: given '0'"),
    "a negative width": (f"{HEAD}\nir,16,-16,1,16,0.5\n", "line 2: .*out_channels: given '-16'"),
    "half a stride": (f"{HEAD}\nir,16,16,0.5,16,0.5\n", "line 2: .*stride: given '0.5'"),
    "no time": (f"{HEAD}\nir,16,16,1,16,\n", "line 2: .*ms: given '', allowed: a number above 0"),
    "time in words": (f"{HEAD}\nir,16,16,1,16,fast\n", "line 2: .*ms: given 'fast'"),
    "time of 0": (f"{HEAD}\nir,16,16,1,16,0\n", "line 2: .*ms: given '0'"),
    "endless time": (f"{HEAD}\nir,16,16,1,16,inf\n", "line 2: .*ms: given 'inf'"),
    "no number": (f"{HEAD}\nir,16,16,1,16,nan\n", "line 2: .*ms: given 'nan'"),
    "a wild spread": (
        f"{HEAD},spread_pct\n{GOOD},wide\n",
        "line 2: .*spread_pct: given 'wide', allowed: a number of 0 or more",
    ),
}


@pytest.mark.parametrize("content, said", WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_is_no_table_is_refused_with_its_line(cache, tmp_path, content, said):
    path = tmp_path / NAME
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path}(: |, ){said}"):
        import_table(path, machine="a-gpu")
    with pytest.raises(UserError, match=said):
        open_table(str(path))
    assert not cache.exists()


def test_a_file_that_is_no_text_is_refused(cache, tmp_path):
    (tmp_path / NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read: it is no text"):
        import_table(tmp_path / NAME)


def test_a_folder_that_cannot_be_written_is_the_user_s_error(monkeypatch, tmp_path):
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "a-file"))
    with pytest.raises(UserError, match=r"a-file.*cannot be written"):
        import_table(write_table(tmp_path / NAME, MS))
