import io
import json
import shutil

import pytest
from rich.console import Console

from tests.latency.conftest import write_table
from tests.shapes import square
from zennas.latency.__main__ import main
from zennas.latency.budget import kept_networks, kept_reference
from zennas.latency.options import Options
from zennas.latency.run import run
from zennas.latency.show import show
from zennas.latency.table import LatencyTable, kept_folder, parts_of_space, runtime_of
from zennas.latency.tables import read_rows
from zennas.progress import Progress
from zennas.provenance import machine_name, versions
from zennas.records import MEASURED, data_root
from zennas.track import Protocol, load_experiment

GPU = "onnxruntime-cuda-1t-batch1.csv"
SMALL = "{block: ir, stem: 8, widths: [8], depths: [1]}"


@pytest.fixture
def command(ended_cleanly, tiny, cache, tmp_path, monkeypatch):
    """command(*words, code=0) -> (standard output, standard error) of `zennas latency --track TINY ...`."""
    monkeypatch.chdir(tmp_path)
    return lambda *words, code=0: ended_cleanly(main, *words, "--track", tiny, code=code)


@pytest.fixture
def space(tiny):
    return load_experiment(str(tiny))[2]


@pytest.fixture
def filled(cache, space):
    """This machine's table of the tiny space, kept: a million multiply-accumulates take a millisecond."""
    table = LatencyTable(Protocol(backend="onnxruntime-cpu"))
    ms_of = {part: part.macs * 1e-6 for part in table.missing_for(space)}
    return write_table(table.path, ms_of, machine=machine_name(), runtime=runtime_of(table.protocol, versions()))


@pytest.fixture
def foreign(tmp_path, space):
    """The file of a GPU's table of the tiny space, ten times as fast as `filled`."""
    return write_table(tmp_path / "usb" / GPU, {part: part.macs * 1e-7 for part in parts_of_space(space)})


def test_without_a_file_the_reference_is_measured_and_kept(command, tiny, cache):
    track = load_experiment(str(tiny))[1]
    assert kept_reference(track, track.protocol) is None
    out, _ = command("--json")
    (one,) = json.loads(out)
    assert one["name"] == "reference ir-32-32x2-64x2" and len(one["raw_ms"]) == 10
    assert kept_reference(track, track.protocol).measured_ms == one["measured_ms"]


def test_files_of_candidates_and_onnx_files_are_measured(command, tmp_path):
    from zennas.latency.budget import export_candidate
    from zennas.space.candidate import Candidate

    small = Candidate(block="ir", stem=8, widths=(8,), depths=(1,))
    for precision in ("float32", "int8"):
        made = export_candidate(small, square(32, 64), Protocol(backend="onnxruntime-cpu", precision=precision))
        (tmp_path / f"{precision}.onnx").write_bytes(made.onnx_bytes)
    (tmp_path / "mine.yaml").write_text(SMALL)
    words = ("mine.yaml", "float32.onnx", "int8.onnx")
    out, _ = command(*words)
    assert [line.split(":")[0] for line in out.splitlines() if " ms (median" in line] == list(words)
    found = json.loads(command(*words, "--json")[0])
    assert [one["protocol"]["precision"] for one in found] == ["float32", "float32", "int8"]


def test_what_was_measured_is_returned_and_then_shown(tiny, cache, tmp_path):
    (tmp_path / "mine.yaml").write_text(SMALL)
    options = Options.of(what=(str(tmp_path / "mine.yaml"),), track=str(tiny))
    said, shown = io.StringIO(), io.StringIO()
    result = run(options, progress=Progress(Console(file=said, width=200)))
    assert "(median" not in said.getvalue()
    assert show(result, options, Console(file=shown, width=40)) == 0
    assert f"{tmp_path}/mine.yaml: {result.networks[0][1].measured_ms:.3f} ms (median" in shown.getvalue()


def test_a_table_is_filled_once(command, space, tiny):
    values = tiny.read_text().replace("table_runs: 3", "table_runs: 1")
    tiny.write_text(values)
    tiny_space = tiny.parent / "space.yaml"
    tiny_space.write_text(
        "{name: tiny, block: ir, image_px: 16, embedding_size: 8, stem: {low: 16, high: 16}, widths: [{low: 16, "
        "high: 16}], "
        "depths: [{low: 1, high: 2}], limits: {max_blocks: 2, max_effectiveness: 1}, baselines: {}}"
    )
    small = load_experiment(str(tiny))[2]
    wanted = set(parts_of_space(small))
    out, _ = command("--table")
    assert "4 block measurements added" in out and len(wanted) == 4
    assert "0 block measurements added" in command("--table")[0]
    path = kept_folder(machine_name()) / "onnxruntime-cpu-1t-batch1.csv"
    assert {row.part for row in read_rows(path)} == wanted
    assert "0 block measurements added" in command("--table", "--space", tiny_space)[0]


def test_show_lists_every_table_and_marks_this_machine_s(command, filled, foreign):
    command("--import", foreign)
    out, _ = command("--show")
    (here,) = [line for line in out.splitlines() if machine_name() in line and "│" in line]
    (there,) = [line for line in out.splitlines() if "a-gpu" in line and "│" in line]
    assert "*" in here and "*" not in there
    for word in ("onnxruntime-cuda", "1.6.0", "2026-01-02", "kept", "a-gpu/onnxruntime-cuda-1t-batch1@1.6.0"):
        assert word in out
    found = {entry["machine"]: entry for entry in json.loads(command("--show", "--json")[0])}
    assert set(found) >= {"a-gpu", machine_name()}
    gpu = found["a-gpu"]
    assert (gpu["backend"], gpu["threads"], gpu["batch"], gpu["precision"]) == ("onnxruntime-cuda", 1, 1, "float32")
    assert (gpu["version"], gpu["first"], gpu["last"], gpu["origins"]) == (
        "1.6.0",
        "2026-01-02",
        "2026-01-02",
        ["kept"],
    )
    assert gpu["num_parts"] == len(read_rows(foreign))


def test_show_says_so_where_there_is_none(command, monkeypatch, tmp_path, checkout):
    shutil.copytree(checkout / "search_spaces", tmp_path / "home" / "search_spaces")
    monkeypatch.setenv("ZENNAS_HOME", str(tmp_path / "home"))
    assert not (data_root() / MEASURED).exists()
    assert "no latency table is known here: zennas latency --table fills one" in command("--show")[0]
    assert json.loads(command("--show", "--json")[0]) == []


def test_show_prints_what_stands_in_one(command, foreign):
    out, _ = command("--show", foreign)
    assert "ir_se at 32 px, stride 2" in out and "8 -> 8" in out and "1.5 %" in out
    found = json.loads(command("--show", foreign, "--json")[0])
    assert len(found["parts"]) == found["num_parts"] == len(read_rows(foreign))
    for part in found["parts"]:
        assert part["gmacs_per_s"] == pytest.approx(10.0)  # 10^-7 ms each
    assert out.count(" 10.0 │") == len(found["parts"])


def test_compare_says_how_one_stands_in_for_the_other(command, filled, foreign):
    out, _ = command("--compare", machine_name(), foreign)
    assert "one:   " + machine_name() in out and "other: a-gpu/" in out
    assert "takes 0.100 times as long (0.100 to 0.100)" in out and "Kendall's tau 1.000" in out
    found = json.loads(command("--compare", machine_name(), foreign, "--json")[0])
    assert found["parts"]["mean"] == pytest.approx(0.1)
    assert found["agreement"]["tau"] == pytest.approx(1, abs=1e-3)  # least squares order ties at random
    assert found["num_only_one"] > 0 == found["num_only_other"]  # the baselines' own, and what is shipped


def test_compare_of_tables_of_another_space_says_what_is_missing(command, filled, foreign, tmp_path):
    lines = foreign.read_text().splitlines(keepends=True)
    (tmp_path / GPU).write_text("".join(lines[:3]))
    out, _ = command("--compare", machine_name(), GPU)
    assert "too few candidates of space tiny can be predicted from both" in out


def test_an_imported_table_is_kept_under_its_own_name(command, foreign):
    out, _ = command("--import", foreign, "--machine", "lab-7")
    assert "lab-7/onnxruntime-cuda-1t-batch1@1.6.0" in out
    assert len(read_rows(kept_folder("lab-7") / GPU)) == len(read_rows(foreign))
    assert json.loads(command("--import", foreign, "--machine", "lab-7", "--json")[0])[0]["machine"] == "lab-7"


def test_predicted_measures_and_shows_and_goes_on(command, space, tiny, filled, tmp_path):
    protocol, sizes = load_experiment(str(tiny))[1].protocol, {"shape": square(32, 64)}
    _, err = command("--predicted", code=2)
    assert "measure some with --predicted --measure 20" in err
    out, _ = command("--predicted", "--measure", 2)
    page = tmp_path / "runs" / "tiny-latency.html"
    assert "over 2 whole networks the table is off by" in out and str(page.relative_to(tmp_path)) in out
    before = kept_networks(protocol, **sizes)
    assert len(before) == 2 and all(one.text in page.read_text() for one, _ in before)
    found = json.loads(command("--predicted", "--measure", 3, "--out", "p.html", "--json")[0])
    assert found["page"] == "p.html" and (tmp_path / "p.html").is_file() and len(found["networks"]) == 3
    after = dict(kept_networks(protocol, **sizes))
    assert all(after[one] == taken for one, taken in before)  # none was measured again


@pytest.mark.parametrize(
    "words, said",
    [
        (("--table", "--show"), "--table and --show exclude each other"),
        (("--show", "a", "b"), "--show takes at most one table; given 2: a, b"),
        (("--compare", "a"), "--compare takes two tables; given 1: a"),
        (("--compare",), "--compare takes two tables; given 0: none"),
        (("--import",), "--import takes one file; given 0: none"),
        (("--predicted", "a.yaml"), "--predicted takes no file; given 1: a.yaml"),
        (("--machine", "x"), "--machine names the machine of a table that --import brings here; give both"),
        (("--measure", "3"), "--measure says how many networks --predicted measures first; give both"),
        (("--predicted", "--measure", "0"), "--measure"),
        (("--show", "--out", "x.html"), "--out says where --predicted writes its page; give both"),
        (("--folder", "x"), "--folder says where --table keeps the table; give both"),
        (("--show", "no-such-machine"), "latency table 'no-such-machine' is not known"),
        (("--show", "nowhere.csv"), "nowhere.csv: cannot be read: No such file"),
        (("--import", "nowhere.csv"), "nowhere.csv: cannot be read: No such file"),
        (("--show", "--backend", "onnxruntime-gpu"), "backend 'onnxruntime-gpu' is not known; did you mean"),
        (("--table", "--space", "ir_sse"), "search space 'ir_sse' is not known; did you mean 'ir_se'?"),
    ],
)
def test_what_does_not_go_together_is_refused(command, words, said):
    assert said in command(*words, code=2)[1]


def test_a_track_whose_checker_refuses_its_precision_is_refused(command, tiny):
    path = tiny.parent / "track.yaml"
    path.write_text(path.read_text().replace("kth_fastest: 2}", "kth_fastest: 2, precision: int8}"))
    _, err = command(code=2)
    assert "track.yaml: limits: " in err and "admits the int8 of protocol.precision; this one admits float32" in err


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(command, filled, tmp_path, tiny):
    (tmp_path / "a-file").touch()
    _, err = command("--predicted", "--measure", 2, "--out", "a-file/p.html", code=2)
    assert "a-file" in err
    assert kept_networks(load_experiment(str(tiny))[1].protocol, square(32, 64)) == []
