import json

import numpy as np
import pandas
import pytest

from tests.processes import forked
from zennas.records import UserError
from zennas.run_folder import write_atomically
from zennas.search.ledger import SHARED, open_ledger
from zennas.search.scored import Row

SETTINGS = {"track": "tiny", "seed": 0, "score": {"repeats": 1}}


@pytest.fixture
def rows(space, make_row):
    """Six batches of four scored candidates; every fifth has failed."""
    rng, made = np.random.default_rng(0), []
    for index in range(24):
        changes = (
            {"score": None, "stage": "score", "error": "FloatingPointError: inf"}
            if index % 5 == 4
            else {"score": index / 7}
        )
        made.append(make_row(space.sample(rng), batch=index // 4, predicted_ms=index / 3, **changes))
    return made


@pytest.fixture
def ledger(tmp_path):
    return open_ledger(tmp_path / "run", SETTINGS, seed=0)


def again(ledger, settings=SETTINGS, **options):
    return open_ledger(ledger.folder, settings, **options)


def test_rows_come_back_as_they_were(ledger, rows):
    for batch in range(6):
        ledger.append(rows[4 * batch : 4 * batch + 4])
        ledger.set_counters({"scored": 4 * batch + 4})
        if batch in (1, 2, 5):
            ledger.flush()
    back = again(ledger)
    assert [tuple(row._replace(widths=tuple(row.widths), depths=tuple(row.depths))) for row in back.rows] == rows
    assert [row.candidate for row in back.rows] == [row.candidate for row in rows]
    assert back.counters == {"scored": 24}
    assert len(ledger.parquet.names()) == 3


def test_a_killed_beginning_is_in_nobodys_way(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.tmp").write_text("{")
    assert open_ledger(tmp_path / "run", SETTINGS, seed=0).state["settings"] == SETTINGS


def test_of_two_folders_of_one_run_the_later_state_counts(tmp_path, space, make_entry):
    """A driver began here, another went on elsewhere, and now it goes on here."""
    store, entry = {}, make_entry(space.cheapest())

    def opened(name):
        ledger = open_ledger(tmp_path / name, SETTINGS, seed=0, kept=dict(store))
        ledger.keep = store.__setitem__
        store.setdefault("run", {name: ledger.state[name] for name in SHARED})
        return ledger

    first = opened("here")
    first.add_measured(entry)
    first.save(rescored={"a": [1.0, 0.1]})
    second = opened("there")
    assert second.state["rescored"] == {"a": [1.0, 0.1]}
    second.add_measured(entry.changed(role="winner"))
    second.save(rescored={"a": [1.0, 0.1], "b": [2.0, 0.1]}, finished=True)
    third = opened("here")
    assert third.state["rescored"] == {"a": [1.0, 0.1], "b": [2.0, 0.1]} and third.state["finished"]
    assert third.measured[entry.key].role == "winner" and third.state["saves"] == second.state["saves"]
    third.save(rescored={})
    assert opened("here").state["rescored"] == {}  # and what this folder has is not older than the store


def test_a_study_of_another_run_is_refused_before_anything_is_written(tmp_path, rows):
    """A run was begun here without a store; now one is given, and holds somebody else's study of that name."""
    here, theirs = open_ledger(tmp_path / "run", SETTINGS, seed=0), open_ledger(tmp_path / "theirs", SETTINGS, seed=0)
    here.append(rows)
    here.flush()
    kept = {"run": {name: theirs.state[name] for name in SHARED}, "island:0": {"saves": 9, "finished": True}}
    with pytest.raises(UserError, match=r"the study 'run' in the store is of another run \(.*choose another --out"):
        again(here, kept=kept)
    assert len(again(here).rows) == len(rows) and not again(here).state["finished"]


def test_what_the_store_has_of_a_network_is_not_made_older(tmp_path, space, make_entry):
    ledger, written = open_ledger(tmp_path / "run", SETTINGS, seed=0), {}
    entries = [make_entry(space.cheapest(), role="winner", key=key) for key in "ab"]
    for entry in entries:
        ledger.take_measured(entry)

    class Kept:
        def keep(self, name, value):
            written[name] = value

        def kept(self, name):
            return {}

        def kept_under(self, prefix):
            return {"a": entries[0].changed(role="finalist").plain()}

    ledger.keep_in(Kept())
    assert list(written) == ["measured:b"]


def test_counters_are_those_of_the_rows_on_disk(ledger, rows):
    ledger.append(rows[:4])
    ledger.set_counters({"seen": 5, "scored": 4})
    ledger.flush()
    ledger.append(rows[4:8])
    ledger.set_counters({"seen": 11, "scored": 8})  # and then the process is killed
    assert again(ledger).counters == {"seen": 5, "scored": 4}


def test_pandas_reads_the_folder_of_parts(ledger, rows):
    for batch in range(6):
        ledger.append(rows[4 * batch : 4 * batch + 4])
        ledger.flush()
    frame = pandas.read_parquet(ledger.parquet.where)
    assert list(frame.columns) == list(Row._fields) and len(frame) == 24
    assert frame["key"].tolist() == [row.key for row in rows]
    assert frame["score"].isna().tolist() == [row.score is None for row in rows]
    assert frame["widths"].map(tuple).tolist() == [row.widths for row in rows]


def test_the_frame_of_a_ledger_is_corrected(ledger, rows):
    ledger.append(rows)
    frame = ledger.frame(factor=1.5)
    assert frame["predicted_ms"].tolist() == pytest.approx([1.5 * row.predicted_ms for row in rows])
    assert frame["score"].dtype == float and again(ledger).frame().empty


def test_a_flush_without_rows_writes_nothing(ledger):
    ledger.flush()
    assert ledger.parquet.names() == [] and not (ledger.folder / "scored.parquet").exists()


def test_a_part_that_was_never_finished_is_not_read(ledger, rows):
    ledger.append(rows[:4])
    ledger.flush()
    (ledger.folder / "scored.parquet" / ".part-0000004.parquet.tmp").write_bytes(b"PAR1")  # killed while it was written
    assert len(again(ledger).rows) == 4 and len(pandas.read_parquet(ledger.parquet.where)) == 4


def test_entries_and_events_come_back_and_the_newest_entry_counts(ledger, space, make_entry):
    one, other = space.cheapest(), space.cheapest().model_copy(update={"stem": 16})
    ledger.add_measured(make_entry(one, ms=1.5))
    ledger.add_measured(make_entry(other, ms=2.5))
    crowned = make_entry(one, ms=1.5, role="winner")
    ledger.add_measured(crowned)
    ledger.event(why="baselines", factor=1.01, after_batch=-1)
    ledger.event(why="drained", after_batch=7)
    ledger.save(rescored={one.key: [3.0, 0.1]})
    back = again(ledger)
    assert list(back.measured) == [one.key, other.key]
    assert back.measured[one.key] == crowned
    assert [event["why"] for event in back.state["events"]] == ["baselines", "drained"]
    assert back.state["rescored"] == {one.key: [3.0, 0.1]} and back.run_id == ledger.run_id


def test_a_torn_last_line_is_survived_and_spoils_nothing_after_it(ledger, space, make_entry):
    candidates = [space.cheapest().model_copy(update={"stem": stem}) for stem in (8, 16, 24)]
    for candidate in candidates[:2]:
        ledger.add_measured(make_entry(candidate))
    path = ledger.folder / "measured.jsonl"
    path.write_bytes(path.read_bytes()[:-40])  # killed while it wrote the second
    back = again(ledger)
    assert list(back.measured) == [candidates[0].key]
    back.add_measured(make_entry(candidates[2]))
    assert list(again(ledger).measured) == [candidates[0].key, candidates[2].key]


def test_what_failed_later_comes_back_as_failed(ledger, rows):
    ledger.append(rows[:4])
    ledger.flush()
    ledger.event(why="failed", key=rows[1].key, stage="measure", error="RuntimeError: gone", after_batch=-1)
    back = again(ledger).rows
    assert (back[1].score, back[1].stage, back[1].error) == (None, "measure", "RuntimeError: gone")
    assert [row.score for row in back] == [rows[0].score, None, rows[2].score, rows[3].score]


def test_a_run_of_other_settings_is_not_gone_on_with(ledger):
    other = SETTINGS | {"seed": 7, "score": {"repeats": 2}, "budget_ms": 5.0}
    with pytest.raises(UserError) as error:
        again(ledger, other)
    for word in (
        str(ledger.folder),
        "seed: 0, now 7",
        "score.repeats: 1, now 2",
        "budget_ms: null, now 5.0",
        "--out",
        "--fresh",
    ):
        assert word in str(error.value)
    assert "track" not in str(error.value)


def test_fresh_moves_a_run_aside_and_never_deletes(ledger, rows):
    ledger.append(rows)
    ledger.flush()
    for number in (1, 2):
        new = again(ledger, SETTINGS | {"seed": number}, fresh=True)
        assert not new.rows and not again(new, SETTINGS | {"seed": number}).rows
        assert (ledger.folder.with_name(f"run.old-{number}") / "run.json").is_file()
    assert len(open_ledger(ledger.folder.with_name("run.old-1"), SETTINGS).rows) == 24


def test_fresh_begins_where_nothing_is(tmp_path):
    assert not open_ledger(tmp_path / "new", SETTINGS, fresh=True).rows


def test_resume_wants_a_run(tmp_path, ledger):
    assert again(ledger, resume=True).run_id == ledger.run_id
    with pytest.raises(UserError, match="holds no run to resume"):
        open_ledger(tmp_path / "nothing", SETTINGS, resume=True)
    assert not (tmp_path / "nothing").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty and holds no run of zennas; choose another --out"):
        open_ledger(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("run.json", "{", "run.json: not valid JSON; .*--fresh"),
        ("run.json", '{"format": 0}', "run.json: format 0, this version reads 1"),
        ("scored.parquet/part-0000000.parquet", "no parquet", "part-0000000.parquet: cannot be read .*move it away"),
    ],
)
def test_a_damaged_run_is_the_users_error(ledger, rows, name, content, said):
    ledger.append(rows)
    ledger.flush()
    (ledger.folder / name).write_text(content)
    with pytest.raises(UserError, match=said):
        again(ledger)


def test_a_file_where_the_folder_should_be_is_the_users_error(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run: is a file; --out takes a folder"):
        open_ledger(tmp_path / "run", SETTINGS)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_atomically(tmp_path / "a.txt", "text")
    write_atomically(tmp_path / "a.txt", b"bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_bytes() == b"bytes"


# A process that writes until the disk is full, and prints how much it knows to be kept. The disk: a real one of a
# megabyte, or a limit on the size of a file, which fails at the same calls with another reason.
FILL = """
import json, resource, sys
import numpy as np
from zennas.records import UserError
from zennas.search.ledger import open_ledger
from zennas.search.measured import Measured
from zennas.space.space import Space
from zennas.search.scored import Row
folder, limit, what, entry = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
ledger = open_ledger(folder, {}, seed=0)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
kept = 0
try:
    for batch in range(4000):
        if what == "rows":
            rows = [Row(batch, f"{batch}-{i}", "ir-8-8x1", "ir", 8, (8,), (1,), 1.0, 0.0, 0.0, 1.0, 1, 1, 1, 1.0, None,
                        str(np.random.default_rng((batch, i)).bytes(400 * batch))) for i in range(4)]
            ledger.append(rows)
            ledger.flush()
            kept += 4
        else:
            latency = entry["latency"] | {"raw_ms": [batch / 7] * 500}
            ledger.add_measured(Measured.parse(entry | {"key": str(batch), "latency": latency}, "by hand"))
            kept += 1
except UserError as error:
    print(json.dumps([kept, str(error)]))
"""


@pytest.fixture(params=["full disk", "file size limit"])
def scarce(request, tmp_path):
    """(folder on a scarce disk, limit on a file's size there or 0)."""
    if request.param == "file size limit":
        return tmp_path, 150_000
    return request.getfixturevalue("small_disk").path, 0


@pytest.mark.parametrize("what", ["rows", "entries"])
def test_a_full_disk_is_one_clear_message_and_loses_nothing(scarce, what, space, make_entry):
    disk, limit = scarce
    entry = json.dumps(make_entry(space.cheapest()).plain())
    ended = forked(FILL, disk / "run", limit, what, entry, timeout=60)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    kept, message = json.loads(ended.stdout)
    assert kept > 0 and "\n" not in message
    assert ("No space left" if not limit else "File too large") in message
    assert "what was computed before is kept" in message and "same command again" in message
    back = open_ledger(disk / "run", {})
    if what == "rows":
        assert [row.key for row in back.rows] == [f"{index // 4}-{index % 4}" for index in range(kept)]
        assert len(pandas.read_parquet(back.parquet.where)) == kept
    else:
        assert list(back.measured) == [str(index) for index in range(kept)]


def test_the_state_of_a_run_is_changed_by_the_ledger_alone(tmp_path):
    ledger = open_ledger(tmp_path / "run", SETTINGS, seed=0)
    with pytest.raises(TypeError):
        ledger.state["finished"] = True
    ledger.save(finished=True)
    ledger.go_on()
    ledger.set_wall("finals", 1.23456)
    ledger.note_store(num_writes=3, longest_s=0.12345)
    ledger.set_counters({"scored": 2, "failed": 0})
    ledger.save()
    state = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert state["finished"] is False and state["wall_s"] == {"finals": 1.235}
    assert state["store"] == {"writes": 3, "longest_s": 0.123} and state["counters"] == {"scored": 2}
