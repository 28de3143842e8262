"""The contract of every command: one declaration of its options gives the command line, its help, the words of a
command to go on with, and a function of Python.
"""

import asyncio
import importlib
import inspect
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest
import typer
import yaml
from typer.testing import CliRunner

import zennas
from tests.processes import forked
from zennas import COMMANDS, commands
from zennas.flags import CommandOptions, spelled, words
from zennas.records import ProcessLostError, UserError

each_command = pytest.mark.parametrize("name", COMMANDS)


def options_of(name):
    return importlib.import_module(f"zennas.{name}.options").Options


def sample(option):
    """A value of an option that is not its default."""
    if option.many == "named":
        return {"a": 1.5, "b": 2.0}
    low, high = option.limits.get("ge", option.limits.get("gt", 0)), option.limits.get("le", 10**6)
    number = high if option.kind is float and high < 10**6 else low + 1
    one = {bool: not option.default, int: int(number), float: float(number) + (0.5 if high == 10**6 else 0.0)}.get(
        option.kind, pathlib.Path("a folder/a file") if option.kind is pathlib.Path else "a word"
    )
    one = option.choices[-1] if option.choices else one
    return (one, f"{one} too") if option.many and not option.choices else one


@pytest.fixture
def asked(monkeypatch):
    """asked(room, words) -> the Options that a command line makes; nothing is run."""
    seen = []
    monkeypatch.setattr(commands, "_run", lambda options, output: seen.append((options, output)) or 0)

    def parsed(name, arguments):
        with pytest.raises(SystemExit) as ended:
            commands.command(f"zennas.{name}")(arguments)
        assert ended.value.code == 0
        return seen.pop()

    return parsed


@each_command
def test_the_words_of_options_ask_for_the_same_options(name, asked):
    cls = options_of(name)
    required = {option.name: sample(option) for option in cls.declared().values() if option.required}
    for option in cls.declared().values():
        options = cls.of(**required | {option.name: sample(option)})
        assert asked(name, words(options)) == (options.as_typed(), None), option.name
    options = cls.of(**required)
    assert asked(name, [*words(options), "--json"]) == (options.as_typed(), "json")


@each_command
def test_every_option_is_told_in_the_help_and_has_a_description(name):
    app = typer.Typer(**commands.SETTINGS)
    commands.add_command(app, f"zennas.{name}")
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    for option in options_of(name).declared().values():
        assert option.help and (option.extra.get("positional") or option.spelled in text), option.name
        assert "unset" not in option.extra or option.default is None, option.name
    assert "Exit codes:" in text


@each_command
def test_options_are_frozen_and_refuse_what_they_do_not_know(name):
    cls = options_of(name)
    assert issubclass(cls, CommandOptions) and cls.model_config["frozen"] and cls.model_config["extra"] == "forbid"
    with pytest.raises(UserError, match="option 'no_such' is not known; "):
        cls.of(no_such=1)
    for option in cls.declared().values():
        for limit, value in option.limits.items():
            wrong = value - 1 if limit[0] == "g" else value + 1
            with pytest.raises(UserError, match=f"{spelled(option.name)}: given {wrong}, allowed: {option.allowed}$"):
                cls.of(**{option.name: wrong})


@each_command
def test_a_room_has_one_layout(name):
    run = importlib.import_module(f"zennas.{name}.run")
    parameters = inspect.signature(run.run).parameters
    assert list(parameters) == ["options", "progress"] and parameters["progress"].default is None
    assert list(inspect.signature(run.check).parameters) == ["options"]
    show = importlib.import_module(f"zennas.{name}.show").show
    assert len(inspect.signature(show).parameters) == 3
    lines = pathlib.Path(importlib.import_module(f"zennas.{name}.__main__").__file__).read_text().splitlines()
    assert len(lines) <= 25


@each_command
def test_a_command_is_a_function_of_python(name):
    room = getattr(zennas, name)
    assert callable(room)
    fields = list(options_of(name).model_fields)
    assert list(inspect.signature(room).parameters) == [*fields, "progress"]
    with pytest.raises(zennas.UserError, match="option 'no_such' is not known"):
        room(no_such=1)
    with pytest.raises(UserError, match=rf"zennas.{name} takes its options by name: {fields[0]}=.*; given 'x'"):
        room("x")
    text = inspect.getdoc(room)
    assert all(f"\n{field}: " in text for field in fields) and name in dir(zennas)
    assert pickle.loads(cloudpickle.dumps(room)) is room


def test_importing_zennas_imports_no_torch():
    program = (
        "import sys, zennas; [getattr(zennas, name) for name in zennas.COMMANDS]; "
        "import zennas.flags; [__import__(f'zennas.{name}.options') for name in zennas.COMMANDS]; "
        "print({'torch', 'numpy', 'pandas', 'ray', 'optuna'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout == "set()\n"
    with pytest.raises(AttributeError, match="module 'zennas' has no attribute 'serach'"):
        zennas.serach  # noqa: B018


def test_a_script_gets_records_and_hears_nothing(capsys, tiny):
    (tiny.parent / "mine.yaml").write_text("{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}")
    scores = zennas.score(files=tiny.parent / "mine.yaml", track=tiny, latency=False, repeats=1)
    assert [row.num_blocks for row in scores.rows] == [3] and scores.rows[0].scores["zen"] > 0
    assert scores.rows[0].predicted_ms is None and capsys.readouterr() == ("", "")


def test_a_candidate_whose_stages_do_not_fit_the_images_is_named_with_its_file(tiny):
    """Before the first is scored; with the sizes that are allowed."""
    (tiny.parent / "mine.yaml").write_text("{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}")
    deep = tiny.parent / "deep.yaml"
    deep.write_text(f"{{block: ir_se, stem: 16, widths: {[16] * 8}, depths: {[1] * 8}}}")
    with pytest.raises(UserError, match=r"^\S*deep\.yaml: .*px do not allow it; allowed: multiples of 256 px"):
        zennas.score(files=[tiny.parent / "mine.yaml", deep], track=tiny, latency=False, repeats=1)


def test_python_may_give_mappings_and_single_values():
    train, mask = options_of("train"), options_of("mask")
    assert train.of(data="x", set={"optimizer.lr": 0.05, "data.augment": {"flip": {}}}).set == (
        "optimizer.lr=0.05",
        "data.augment={flip: {}}",
    )
    path = "/textures of masks/" + "a folder whose name is long " * 5
    assert yaml.safe_load(train.of(data="x", set={"at": {"path": path}}).set[0].partition("=")[2]) == {"path": path}
    assert mask.of(kinds="n95, kn95").kinds == ("n95", "kn95") and mask.of(knob="size=0.1").knob == {"size": 0.1}
    assert options_of("evaluate").of(model="a.onnx", set="lfw.bin").model == ("a.onnx",)


@each_command
def test_an_option_of_one_value_is_given_once(name, capsys):
    """In any spelling."""
    main = commands.command(f"zennas.{name}")
    declared = options_of(name).declared().values()
    for option in declared:
        if option.many or option.extra.get("positional"):
            continue
        word = [option.spelled] if option.kind is bool else [f"{option.spelled}=1"]
        for again in (word, [option.spelled, "2"] if option.kind is not bool else word):
            with pytest.raises(SystemExit) as ended:
                main([*word, *again])
            assert ended.value.code == 2
            assert capsys.readouterr().err == f"error: {option.spelled} is given 2 times, and takes one value\n"


def test_a_yes_and_a_no_are_two_answers(capsys):
    with pytest.raises(SystemExit):
        commands.command("zennas.score")(["--latency", "--no-latency"])
    assert capsys.readouterr().err == "error: --latency is given 2 times, and takes one value\n"


def test_lists_add_up_however_they_are_given(asked):
    for line in (
        ["--score", "zen,naswot"],
        ["--score", "zen", "--score=naswot"],
        ["--score=zen,zen", "--score=naswot"],
    ):
        assert asked("score", line)[0].score == ("zen", "naswot")
    assert options_of("score").of(score=["zen", "naswot,synflow"]).score == ("zen", "naswot", "synflow")


def test_a_key_of_the_recipe_is_given_once():
    with pytest.raises(UserError, match=r"^--set epochs=3: epochs=2 is given already; give epochs once$"):
        options_of("train").of(data="x", set=["epochs=2", "batch=8", "epochs=3"])
    assert options_of("train").of(data="x", set=["loss.name=arcface", "loss.knobs={}"]).set


@pytest.mark.parametrize(
    "knob, says",
    [
        (["size"], "--knob size: expected NAME=NUMBER, such as angle_deg=8"),
        (["size=big"], "--knob size=big: expected NAME=NUMBER"),
        (["=3"], "--knob =3: expected NAME=NUMBER"),
        (["size=1", "size=2"], "--knob size=2: size is 1 already; give it once"),
    ],
)
def test_numbers_by_name_are_told_apart(knob, says):
    with pytest.raises(UserError, match=says):
        options_of("mask").of(knob=knob)


# --- how a command ends


def program_of(function):
    app = typer.Typer(**commands.SETTINGS)
    app.command()(function)
    return app


def code_of(function):
    with pytest.raises(SystemExit) as ended:
        commands.run_program(program_of(function), [], "program")
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("no"), 2), (ProcessLostError("no"), 3), (KeyboardInterrupt(), 130)]
)
def test_every_end_has_its_exit_code_and_one_line(error, code, capsys):
    def fails():
        raise error

    assert code_of(fails) == code
    assert capsys.readouterr() == ("", "" if code == 130 else "error: no\n")


def test_a_command_may_be_called_from_any_thread_several_at_once():
    codes, together = [], threading.Barrier(3, timeout=60)

    def meets():
        together.wait()
        return 7

    threads = [threading.Thread(target=lambda: codes.append(code_of(meets))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [7, 7, 7]

    async def cell():
        return code_of(lambda: 7)

    assert asyncio.run(cell()) == 7


def test_one_sigterm_is_answered_and_the_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)

    def asked_to_stop():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    assert code_of(asked_to_stop) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_reader_who_leaves_ends_it_quietly():
    """zennas latency --show | head"""
    code = """if True:
        import os, sys
        from zennas.latency.__main__ import main
        reader, writer = os.pipe()
        os.close(reader)
        sys.stdout = os.fdopen(writer, "w")
        main(["--show"])
    """
    ended = forked(code)
    assert (ended.returncode, ended.stderr) == (0, "")
