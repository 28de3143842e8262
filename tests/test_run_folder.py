"""The folder of a run: which runs go on, and which are refused."""

import json
import os
import pwd

import pytest

from zennas.records import UserError
from zennas.run_folder import cache_folder, lock_folder, open_run

SETTINGS = {"track": "webface-sfr", "seed": 0}


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """The version that made a run is noted, not compared."""
    folder = tmp_path / "run"
    open_run(folder, SETTINGS, start={"counters": {"scored": 3}})
    state = json.loads((folder / "run.json").read_text())
    state["made_by"]["zennas"] = "0.1.0"
    (folder / "run.json").write_text(json.dumps(state))
    resumed, existed = open_run(folder, SETTINGS, start={"counters": {"scored": 0}})
    assert existed and resumed["made_by"]["zennas"] == "0.1.0" and resumed["counters"] == {"scored": 3}


def test_a_run_of_an_earlier_version_knows_less_of_its_data(tmp_path):
    """Its fingerprint has no part for the content; a run that has one is refused where that changed."""
    earlier = "0123456789abcdef"
    open_run(tmp_path / "old", {"data": earlier}, start={})
    assert open_run(tmp_path / "old", {"data": f"{earlier}-00ff"}, start={})[1]
    open_run(tmp_path / "new", {"data": f"{earlier}-00ff"}, start={})
    with pytest.raises(UserError, match=r"other settings \(data: \"0123456789abcdef-00ff\", now"):
        open_run(tmp_path / "new", {"data": f"{earlier}-00fe"}, start={})


def test_a_run_with_other_settings_is_refused(tmp_path):
    open_run(tmp_path / "run", SETTINGS, start={})
    with pytest.raises(UserError, match="seed"):
        open_run(tmp_path / "run", SETTINGS | {"seed": 1}, start={})


def test_what_differs_is_named_by_its_path_however_long_the_rest_is(tmp_path):
    loss = {"name": "balanced_curricular", "knobs": {"margin_rad": 0.2, "scale": 64.0}, "sampling_rate": 1.0}
    open_run(tmp_path / "run", SETTINGS | {"loss": loss}, start={})
    other = loss | {"knobs": {"margin_rad": 0.3, "scale": 64.0}, "texts": "x" * 100}
    with pytest.raises(
        UserError,
        match=r"\(loss.knobs.margin_rad: 0.2, now 0.3; loss.texts: null, now \"x{59}\.\.\. \(42 more characters\)\)",
    ):
        open_run(tmp_path / "run", SETTINGS | {"loss": other}, start={})


def test_of_many_differences_the_first_are_named(tmp_path):
    open_run(tmp_path / "run", {f"a{number:02d}": 0 for number in range(20)}, start={})
    with pytest.raises(UserError, match=r"a07: 0, now 1; and 12 more\)"):
        open_run(tmp_path / "run", {f"a{number:02d}": 1 for number in range(20)}, start={})


def test_a_run_that_lacks_an_entry_begins_with_it(tmp_path):
    open_run(tmp_path / "run", SETTINGS, start={"done": 3})
    state, existed = open_run(tmp_path / "run", SETTINGS, start={"done": 0, "summary": None})
    assert existed and state["done"] == 3 and state["summary"] is None


@pytest.mark.parametrize("text", ["[1]", "3", '{"format": 1}', '{"format": 1, "settings": []}', "[" * 100_000])
def test_what_is_no_state_of_a_run_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run.json: .*choose another --out, or --fresh"):
        open_run(tmp_path, SETTINGS, start={})


@pytest.mark.parametrize("folder", ["", "."])
def test_the_current_folder_is_a_folder_too(tmp_path, monkeypatch, folder):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lock = lock_folder(folder)
    assert open_run(folder, SETTINGS, start={})[1] is False
    lock.release()
    (tmp_path / "here" / "run.json").write_text("[")
    with pytest.raises(UserError, match="not valid JSON"):
        open_run(folder, SETTINGS, start={})


# --- a user whom the system does not know, as in a container


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, tmp_path):
    def nobody(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("ZENNAS_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(UserError, match=r"^this user has no home folder: set HOME, or ZENNAS_CACHE$"):
        cache_folder("faces")
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path))
    assert cache_folder("faces") == tmp_path / "faces"


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may write everywhere")
def test_a_home_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    monkeypatch.delenv("ZENNAS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(UserError, match=r"cannot be made, for .*home cannot be written; set ZENNAS_CACHE to a folder"):
        cache_folder("faces")
    home.chmod(0o755)
    assert cache_folder("faces") == home / ".cache" / "zennas" / "faces"


def test_a_place_where_nothing_can_be_made_is_not_called_in_use():
    with pytest.raises(UserError, match=r"^/proc/foo: cannot be written: no file can be made there"):
        lock_folder("/proc/foo")
