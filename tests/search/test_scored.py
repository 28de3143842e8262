"""The table of scored candidates: columns that are rows again, parts anywhere, and little memory."""

import math
import tracemalloc

import fsspec
import numpy as np
import pandas
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from zennas.records import UserError
from zennas.search.ledger import SHARED, open_ledger
from zennas.search.scored import SCHEMA, ParquetFolder, Row, Rows, checked_table


@pytest.fixture
def some(space, make_row):
    """Thirty rows, three of them failed; of the batches 0 to 9."""
    rng, made = np.random.default_rng(0), []
    for index in range(30):
        failed = {"score": None, "stage": "score", "error": "FloatingPointError: inf"} if index % 10 == 4 else {}
        made.append(make_row(space.sample(rng), batch=index // 3, **({"score": math.sqrt(index)} | failed)))
    return made


@pytest.fixture
def rows(some):
    made = Rows()
    made.extend(some[:7])
    made.extend(some[7:])
    return made


def test_rows_go_in_and_come_out_as_they_were(rows, some):
    assert len(rows) == 30 and rows[:] == some and rows[-1] == some[-1] and rows[4:6] == some[4:6]
    assert rows.keys == [row.key for row in some] and rows.failures == [4, 14, 24]
    with pytest.raises(IndexError):
        rows[30]


def test_columns_say_the_same_as_rows(rows, some, space):
    assert rows.genes_NG.tolist() == [[row.stem, *row.widths, *row.depths] for row in some]
    assert [None if math.isnan(score) else score for score in rows.score_N] == [row.score for row in some]
    for name in ("predicted_ms", "params", "macs", "batch", "num_blocks", "elapsed_s", "island"):
        assert rows.column(name).tolist() == [getattr(row, name) for row in some]


def test_the_ranking_is_by_score_then_key_without_what_failed(rows, some):
    kept_N = np.arange(30) % 2 == 0
    expected = sorted(
        (row for at, row in enumerate(some) if row.score is not None and at % 2 == 0),
        key=lambda row: (-row.score, row.key),
    )
    assert [rows[int(at)] for at in rows.ranked(kept_N)] == expected
    equal = Rows()
    equal.extend([row._replace(score=1.0) for row in some])
    assert [equal[int(at)].key for at in equal.ranked()] == sorted(row.key for row in some)


def test_what_fails_later_has_no_score_any_more(rows, some):
    rows.fail(some[2].key, stage="measure", error="RuntimeError: gone")
    assert rows[2] == some[2]._replace(score=None, stage="measure", error="RuntimeError: gone") and 2 in rows.failures


def test_the_frame_is_what_the_rows_say(rows, some):
    frame = rows.frame()
    assert list(frame.columns) == SCHEMA.names
    for name in ("key", "text", "block", "stem", "num_blocks", "stage", "error"):
        found = frame[name].astype(object).where(frame[name].notna(), None)
        assert found.tolist() == [getattr(row, name) for row in some], name
    assert [tuple(widths) for widths in frame["widths"]] == [row.widths for row in some]
    assert Rows().frame().empty


@pytest.fixture(params=["folder", "file://", "memory://"])
def where(request, tmp_path):
    """A folder, on this disk or on a file system that only fsspec knows."""
    place = tmp_path / "a table"
    yield {"folder": str(place), "file://": f"file://{place}", "memory://": f"memory://{place}"}[request.param]
    if request.param == "memory://":
        fsspec.filesystem("memory").store.clear()


def test_parts_are_written_where_they_should_and_read_again(where, some):
    parts, other = ParquetFolder(where), ParquetFolder(where, island=3)
    assert parts.names() == []
    parts.write(some[:9], metadata={"counters": {"scored": 9}})
    other.write([row._replace(island=3) for row in some[9:12]], metadata={})
    parts.write(some[12:], metadata={"counters": {"scored": 27}})
    assert parts.names() == ["part-0000000.parquet", "part-0000003.island-3.parquet", "part-0000004.parquet"]
    assert [parts.is_of(name) for name in parts.names()] == [True, False, True]
    assert [other.is_of(name) for name in other.names()] == [False, True, False]
    back = Rows()
    for name in parts.names():
        back.extend_from(parts.read(name)[0])
    assert back[:9] == some[:9] and back[12:] == some[12:] and back[10] == some[10]._replace(island=3)
    assert parts.read("part-0000004.parquet")[1] == {"counters": {"scored": 27}}


def test_a_table_that_nothing_here_can_reach_is_one_line():
    for place, said in {"nosuch://bucket/x": "nosuch", "hdfs://head/x": "hdfs"}.items():
        with pytest.raises(UserError, match=f"--table {place}: cannot be reached: .*") as error:
            ParquetFolder(place).names()
        assert said in str(error.value)


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/table: \w+Error: .*same command again when it can be reached"):
        open_ledger(tmp_path / "run", {}, seed=0, table=str(tmp_path / "file" / "table"))
    assert not (tmp_path / "run").exists()


def test_a_part_of_before_there_were_islands_is_read(tmp_path, some):
    parts = ParquetFolder(tmp_path)
    parts.write(some, metadata={"counters": {}})
    path = tmp_path / "part-0000000.parquet"
    metadata = parts.read(path.name)[0].schema.metadata
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path).drop_columns(["island"])
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    back = Rows()
    back.extend_from(parts.read(path.name)[0])
    assert back[:] == some


def test_islands_read_what_others_wrote_once(tmp_path, some):
    folder = tmp_path / "table"
    one = open_ledger(tmp_path / "run0", {}, seed=0, table=str(folder))
    kept = {"run": {name: one.state[name] for name in SHARED}}  # as the first island tells the others by the store
    two = open_ledger(tmp_path / "run1", {}, seed=0, table=str(folder), island=1, kept=kept)
    one.append(some[:5])
    one.flush()
    two.take_foreign(some[:2])  # came by the store
    assert two.refresh() == 3 and two.refresh() == 0 and two.rows.keys == [row.key for row in some[:5]]
    assert two.own_N.sum() == 0 and one.own_N.sum() == 5 and one.refresh() == 0
    two.append([row._replace(island=1) for row in some[5:8]])
    two.flush()
    assert one.refresh() == 3 and one.own_N.tolist() == [True] * 5 + [False] * 3
    again = open_ledger(tmp_path / "run1", {}, table=str(folder), island=1)
    assert len(again.rows) == 8 and again.own_N.sum() == 3


def test_a_candidate_takes_about_a_hundred_bytes(make_row, space):
    """A hundred thousand of them are ten megabytes; as tuples they were a hundred and twenty."""
    row, rows = make_row(space.cheapest()), Rows()
    rows.extend([row] * 1000)
    tracemalloc.start()
    for _ in range(99):
        rows.extend([row] * 1000)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == 100_000 and taken < 2 * 100 * 100_000  # the columns grow by halves


def test_a_table_with_candidates_of_another_run_is_refused(tmp_path, some):
    table = str(tmp_path / "table")
    first = open_ledger(tmp_path / "one", {}, seed=0, table=table)
    first.append(some)
    first.flush()
    with pytest.raises(UserError, match=r"table: holds candidates of another run \(.*, 20.*choose another --table"):
        open_ledger(tmp_path / "two", {}, seed=0, table=table)
    with pytest.raises(UserError, match=r"--fresh: .*table holds 1 parts of an earlier run, .* choose another --table"):
        open_ledger(tmp_path / "one", {}, seed=0, table=table, fresh=True)
    assert len(open_ledger(tmp_path / "one", {}, table=table).rows) == len(some)  # and not moved aside


@pytest.mark.parametrize("place", ["scored.parquet", "a/table"])
def test_a_table_in_the_folder_of_the_run_comes_and_goes_with_it(tmp_path, some, place):
    folder = tmp_path / "run"
    first = open_ledger(folder, {}, seed=0, table=str(folder / place))
    first.append(some)
    first.flush()
    assert len(open_ledger(folder, {}, table=str(folder / place)).rows) == len(some)
    anew = open_ledger(folder, {}, seed=0, table=str(folder / place), fresh=True)
    assert len(anew.rows) == 0 and list((tmp_path / "run.old-1" / place).iterdir())


def test_no_place_at_all_is_not_a_table():
    for text in ("", " "):
        with pytest.raises(UserError, match=f"--table: given '{text}', allowed: a folder or a URL"):
            checked_table(text)


class Slow(MemoryFileSystem):
    """A file system on which a file is seen while it is written; notes what was written under which name."""

    protocol, store, pseudo_dirs, written = "slowly", {}, [""], []

    def pipe_file(self, path, value, **options):
        self.written.append(path.rsplit("/", 1)[-1])
        super().pipe_file(path, value, **options)


def test_where_a_file_is_seen_while_it_is_written_a_part_gets_its_name_when_it_is_whole(some):
    fsspec.register_implementation("slowly", Slow, clobber=True)
    parts = ParquetFolder("slowly:///table")
    parts.write(some, metadata={})
    assert Slow.written == [".part-0000000.parquet.tmp"] and parts.names() == ["part-0000000.parquet"]
    assert parts.read("part-0000000.parquet")[0].num_rows == len(some)


def test_a_part_that_is_not_whole_yet_is_read_at_the_next_look(tmp_path, some):
    one = open_ledger(tmp_path / "run0", {}, seed=0, table=str(tmp_path / "table"))
    kept = {"run": {name: one.state[name] for name in SHARED}}
    two = open_ledger(tmp_path / "run1", {}, seed=0, table=str(tmp_path / "table"), island=1, kept=kept)
    one.append(some)
    one.flush()
    (part,) = (tmp_path / "table").glob("part-*")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert two.refresh() == 0
    part.write_bytes(whole)
    assert two.refresh() == len(some)


def test_a_secret_in_a_tables_place_is_refused_and_not_repeated():
    for text in (
        "s3://key:sesame@bucket/table",
        "abfs://box/table?sig=sesame",
        "s3://bucket/table?aws_secret_access_key=sesame",
    ):
        with pytest.raises(UserError, match=r"--table .*has a secret, .*fsspec/conf\.json") as error:
            checked_table(text)
        assert "sesame" not in str(error.value)
    for text in (
        None,
        "runs/a/table",
        "s3://bucket/table",
        "file:///tmp/a@b/table",
        "s3://bucket/ann@corp.com/a:b@c/table",
    ):
        assert checked_table(text) == text


def test_pandas_reads_the_folder_as_one_table(tmp_path, some):
    parts = ParquetFolder(tmp_path / "table")
    parts.write(some[:9], metadata={})
    parts.write(some[9:], metadata={})
    frame = pandas.read_parquet(tmp_path / "table")
    assert frame["key"].tolist() == [row.key for row in some] and list(frame.columns) == list(Row._fields)
