import importlib
import io
import os
import socket
import subprocess
import sys
import tomllib

import pytest
import torch
import yaml

import zennas
from zennas.__main__ import COMMANDS
from zennas.commands import VALUES
from zennas.latency.__main__ import main as latency
from zennas.latency.backends import BACKENDS
from zennas.ray_address import check_address
from zennas.records import EXPERIMENTS, SPACES, UserError, names
from zennas.score.__main__ import main as score
from zennas.score.options import Options
from zennas.score.run import check
from zennas.search.__main__ import main as search

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def shell(checkout, tmp_path):
    """shell(*words) -> (exit code, standard output, standard error) of python with these words."""

    def run(*words):
        environment = os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "120"}
        ended = subprocess.run(
            [sys.executable, *words],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stdout, ended.stderr

    return run


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """refused(main, *arguments) -> the one line on standard error of a command that ends with exit code 2."""
    monkeypatch.chdir(tmp_path)

    def run(main, *arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert ended.value.code == 2, (ended.value.code, out, err)
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and "Traceback" not in out + err, err
        return errors[0]

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_the_same_both_ways(name, shell):
    code, out, _ = shell("-m", f"zennas.{name}", "--help")
    assert (
        code == 0
        and "Exit codes:" in out
        and {"run": "EXPERIMENT", "mask": "--ratio", "align": "--size", "gallery": "--enrol"}.get(name, "--track")
        in out
    )
    assert (
        shell("-m", "zennas", name, "--help")[1].splitlines()[1:] == out.splitlines()[1:]
    )  # but for the first: the usage


@pytest.mark.parametrize("name", ["search", "latency"])
def test_help_does_not_wait_for_torch(name, shell):
    program = f"import sys, zennas.{name}.__main__; print('torch' in sys.modules)"
    assert shell("-c", program)[1] == "False\n"


def test_zennas_alone_names_its_commands(shell):
    for words in ((), ("--help",), ("-h",)):
        code, out, _ = shell("-m", "zennas", *words)
        assert code == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert shell("-m", "zennas", "--version") == (0, f"{zennas.__version__}\n", "")


@pytest.mark.parametrize(
    "line, offered",
    [
        ("zennas su", {"submit"}),
        ("zennas score --bu", {"--budget-ms"}),
        ("zennas score --score zen_", {"zen_closed", "zen_reference", "zen_mean", "zen_mean_closed"}),
        ("zennas search --score na", {"naswot"}),
        ("zennas score --track web", {"webface-main", "webface-sfr"}),
        ("zennas evaluate --device ", {"cpu", "cuda"}),
        ("zennas mask --faces a", {"aligned", "auto"}),
        ("zennas mask --kinds k", {"kn95"}),
        ("zennas mask --kinds black,n", {"black,n95"}),
        ("zennas clean --order intra", {"intra-inter"}),
        ("zennas submit --normalise ", {"insightface", "none"}),
        ("zennas latency --backend torch", {"torch-cuda"}),
    ],
)
def test_a_shell_is_told_how_a_line_goes_on(line, offered, shell, monkeypatch):
    for name, value in {
        "_ZENNAS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }.items():
        monkeypatch.setenv(name, value)
    code, out, err = shell("-m", "zennas")
    assert (code, set(out.split()), err) == (0, offered, "")


def test_completion_is_installed_where_the_shell_looks(checkout, tmp_path):
    def in_bash(option):
        """(exit code, standard output) of zennas with this option, started by a shell: it asks who its parent is."""
        ended = subprocess.run(
            ["bash", "-c", f"'{sys.executable}' -m zennas {option}; exit $?"],
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(checkout), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stdout

    assert "complete -o default -F _zennas_completion zennas" in in_bash("--show-completion")[1]
    assert in_bash("--install-completion")[0] == 0
    assert "_ZENNAS_COMPLETE" in (tmp_path / ".bash_completions" / "zennas.sh").read_text()


def test_completion_offers_the_backends_that_there_are():
    assert set(VALUES["backends"]()) == set(BACKENDS)


def test_an_unknown_command_is_refused_with_the_known(shell):
    code, out, err = shell("-m", "zennas", "serach")
    assert (code, out) == (2, "")
    assert err.startswith("error: command 'serach' is not known; did you mean 'search'?") and len(err.splitlines()) == 1


def test_the_console_script_is_the_same_function(checkout):
    scripts = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["zennas"].split(":")
    assert getattr(importlib.import_module(module), function) is importlib.import_module("zennas.__main__").main


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_refused(name, refused):
    main = importlib.import_module(f"zennas.{name}.__main__").main
    assert "--no-such-option" in refused(main, "--no-such-option")


def test_an_unknown_track_is_refused_with_the_known(refused):
    line = refused(search, "--track", "webface-srf")
    assert "'webface-srf' is not known; did you mean 'webface-sfr'?" in line
    assert all(name in line for name in names(EXPERIMENTS))


def test_a_track_file_that_is_not_there_is_refused(refused):
    assert "nowhere.yaml: no such file" in refused(search, "--track", "nowhere.yaml")


def test_an_unknown_space_is_refused_with_the_known(refused, tiny):
    line = refused(search, "--track", tiny, "--space", "ir_sse")
    assert "search space 'ir_sse' is not known; did you mean 'ir_se'?" in line and all(
        name in line for name in names(SPACES)
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("name: [tiny", "experiment.yaml, line "),
        ("just words", "expected keys and values"),
        ("{name: tiny, space: SPACE, track: TRACK, serach: {}}", "key 'serach' is not known; did you mean 'search'?"),
        ("{name: tiny, space: SPACE}", "key 'track' is missing"),
        (
            "{name: tiny, space: SPACE, track: TRACK, search: {population: many}}",
            "search.population: given 'many', allowed:",
        ),
        ("{name: tiny, space: SPACE, track: TRACK, search: {population: 0}}", "search.population: given 0, allowed:"),
        ("{name: tiny, space: nowhere.yaml, track: TRACK}", "experiment.yaml: nowhere.yaml: no such file"),
    ],
)
def test_a_broken_experiment_is_refused_with_its_place(refused, tiny, text, said):
    folder = tiny.parent
    tiny.write_text(text.replace("SPACE", str(folder / "space.yaml")).replace("TRACK", str(folder / "track.yaml")))
    line = refused(search, "--track", tiny)
    assert said in line and "experiment.yaml" in line


@pytest.mark.parametrize("name", ["space", "track"])
def test_a_broken_file_of_an_experiment_is_refused_by_its_own_name(refused, tiny, name):
    (tiny.parent / f"{name}.yaml").write_text("name: [tiny")
    assert f"{name}.yaml, line " in refused(search, "--track", tiny)


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--minutes", "0", "--minutes: given 0, allowed: more than 0"),
        ("--minutes", "-1", "minutes"),
        ("--minutes", "nan", "minutes"),
        ("--minutes", "soon", "--minutes"),
        ("--candidates", "0", "--candidates: given 0, allowed: 1 or more"),
        ("--workers", "0", "--workers: given 0, allowed: 1 to"),
        ("--workers", "two", "--workers"),
        ("--budget-ms", "0", "--budget-ms: given 0, allowed: more than 0"),
        ("--budget-ms", "-3", "--budget-ms: given -3, allowed: more than 0"),
        ("--budget-ms", "nan", "--budget-ms"),
        ("--budget-ms", "inf", "--budget-ms: given inf, allowed: a finite number"),
        ("--minutes", "inf", "--minutes: given inf, allowed: a finite number"),
        ("--images", "", "--images: given '', allowed: a path"),
        ("--seed", "-1", "seed"),  # numpy's generators take none below zero
        ("--seed", str(2**40), "seed"),  # nor torch's one that does not fit 64 bits behind a shift of 32
        ("--backend", "onnxruntime", "backend 'onnxruntime' is not known; did you mean 'onnxruntime-cpu'?"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_starts(refused, tiny, tmp_path, option, value, said):
    assert said in refused(search, "--track", tiny, "--out", tmp_path / "run", option, value)
    assert not (tmp_path / "run").exists()


@without_gpu
@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt", "torch-cuda"])
def test_a_backend_without_its_device_is_refused(refused, tiny, tmp_path, backend):
    line = refused(search, "--track", tiny, "--out", tmp_path / "run", "--backend", backend)
    assert f"'{backend}' needs an NVIDIA GPU" in line and torch.__version__ in line


def test_resume_and_fresh_exclude_each_other(refused, tiny):
    assert "--resume and --fresh exclude each other" in refused(search, "--track", tiny, "--resume", "--fresh")


def test_resume_without_a_run_is_refused(refused, tiny, tmp_path):
    assert "holds no run to resume" in refused(search, "--track", tiny, "--out", tmp_path / "run", "--resume")
    assert "runs/tiny: holds no run" in refused(search, "--track", tiny, "--resume")  # the default folder


def test_a_file_as_out_is_refused_and_kept(refused, tiny, tmp_path):
    (tmp_path / "run").write_text("my thesis")
    assert str(tmp_path / "run") in refused(search, "--track", tiny, "--out", tmp_path / "run")
    assert (tmp_path / "run").read_text() == "my thesis"


def test_a_folder_of_something_else_as_out_is_refused(refused, tiny):
    assert "is not empty and holds no run of zennas" in refused(search, "--track", tiny, "--out", tiny.parent)


@pytest.fixture
def read_only(tmp_path):
    """A folder that nothing can be written to: by its rights, or for root a file system mounted so."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        return
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("root may write anywhere, and this container lets it mount nothing")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_an_unwritable_out_is_refused(refused, tiny, read_only):
    line = refused(search, "--track", tiny, "--out", read_only / "run")
    assert f"{read_only / 'run'}: cannot be written: " in line


CANDIDATE = "{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}"


@pytest.mark.parametrize(
    "arguments, stdin, said",
    [
        (["--json", "--csv"], CANDIDATE, "--csv and --json exclude each other"),
        (["--measure", "--no-latency"], CANDIDATE, "--measure and --no-latency exclude each other"),
        (["--no-latency", "--score", "zan"], CANDIDATE, "score 'zan' is not known; did you mean 'zen'?"),
        (["--no-latency"], "", "standard input: holds no candidate"),
        (["--no-latency"], CANDIDATE.replace("ir_se", "irse"), "block 'irse' is not known; did you mean 'ir_se'?"),
        (["--no-latency"], CANDIDATE.replace("}", ", wdths: 1}"), "key 'wdths' is not known; did you mean 'widths'?"),
        (["--no-latency"], CANDIDATE.replace("[1, 2]", "[1]"), "given 2 widths and 1 depths"),
        (["--no-latency", "-", "-"], CANDIDATE, "'-', standard input, is given more than once"),
        (["--no-latency", "nowhere.yaml"], "", "nowhere.yaml: cannot be read"),
        (["--no-latency", "--repeats", "0"], CANDIDATE, "--repeats"),
    ],
)
def test_score_refuses_what_it_cannot_use(refused, tiny, arguments, stdin, said, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    assert said in refused(score, "--track", tiny, *arguments)


def test_score_refuses_baselines_where_the_space_has_none(refused, tiny):
    path = tiny.parent / "space.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    del values["baselines"]
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    line = refused(score, "--track", tiny, "--no-latency", "--baselines", "--csv")
    assert "--baselines: space tiny has no hand-made networks; give files" in line


class Terminal(io.StringIO):
    """Standard input of someone who types."""

    def isatty(self):
        return True


@pytest.mark.parametrize("words", [(), ("-",)])
def test_score_says_on_a_terminal_that_it_waits(tiny, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal(CANDIDATE))
    with pytest.raises(SystemExit) as ended:
        score([*words, "--track", str(tiny), "--no-latency", "--repeats", "1", "--csv"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and "candidates are read from standard input" in err
    assert len(out.splitlines()) == 2


def test_from_python_score_never_waits_for_standard_input(tiny, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # to read it would fail
    with pytest.raises(UserError, match="nothing to score: give files of candidates"):
        zennas.score(track=str(tiny))
    check(Options(files=("-",), track=str(tiny)))  # which touches nothing


def test_candidates_of_standard_input_stand_where_they_are_asked_for(tiny, tmp_path, monkeypatch):
    for name, depth in (("first", 1), ("last", 3)):
        (tmp_path / f"{name}.yaml").write_text(CANDIDATE.replace("[1, 2]", f"[{depth}, 1]"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(CANDIDATE.replace("[1, 2]", "[2, 1]")))
    files = [tmp_path / "first.yaml", "-", tmp_path / "last.yaml"]
    rows = zennas.score(files=files, track=str(tiny), latency=False, score="params").rows
    assert [row.num_blocks for row in rows] == [2, 3, 4]


@pytest.mark.parametrize("name", ["nowhere.onnx", "nowhere.yaml"])
def test_latency_refuses_a_file_that_is_not_there(refused, tiny, name):
    assert f"{name}: " in refused(latency, "--track", tiny, name)


def test_latency_refuses_a_file_that_is_no_network(refused, tiny, tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    assert "text.onnx" in refused(latency, "--track", tiny, tmp_path / "text.onnx")


def test_an_address_at_which_no_ray_answers_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("zennas.ray_address.ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=rf"--address 127.0.0.1:{port}: something answers there, but no Ray \(8265"):
            check_address(f"127.0.0.1:{port}")
    for address in (f"127.0.0.1:{port}", "127.0.0.1:99999", "nosuch.invalid:6379"):
        with pytest.raises(
            UserError, match=rf"--address {address}: nobody answers there \(.*HOST:PORT that ray start --head"
        ):
            check_address(address)
    for address in ("", "head", "http://127.0.0.1:8265", "ray://head:10001"):
        with pytest.raises(UserError, match=rf"--address: given '{address}', allowed: the HOST:PORT .*'auto'"):
            check_address(address)
    for address in (None, "auto", "local"):  # Ray's own to find
        check_address(address)
