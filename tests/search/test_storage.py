"""What --storage may be, what is said of it, how long it is waited for; with a real PostgreSQL, journal file and gRPC
proxy.
"""

import os
import sqlite3
import threading
import time

import optuna
import pytest
import sqlalchemy

from tests.processes import Forked
from tests.search.servers import PASSWORD, Proxy
from zennas.records import UserError
from zennas.search import storage as storages
from zennas.search.storage import asked_storage, network_disk, open_storage, passes, patiently, shown

SECRET = f"postgresql://ann:{PASSWORD}@db.example:5432/faces"


def test_a_password_is_never_shown():
    for url in (
        SECRET,
        f"postgresql+psycopg://ann:{PASSWORD}@db/faces?sslmode=require",
        f"postgresql://ann@db/faces?password={PASSWORD}",
        f"postgresql://db/faces?user=ann&sslpassword={PASSWORD}",
        f"mysql://ann:{PASSWORD}@db/faces",
    ):
        assert PASSWORD not in shown(url) and "ann" in shown(url) and "faces" in shown(url)
    for url in (
        "sqlite:///a.db",
        "journal:a.log",
        "grpc://head:13000",
        "postgresql://ann@db/faces",
        "nonsense",
        "a b://",
    ):
        assert shown(url) == url


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(storages.VARIABLE, raising=False)


def test_a_password_on_the_command_line_is_refused_and_not_repeated():
    with pytest.raises(UserError) as error:
        asked_storage(SECRET)
    assert PASSWORD not in str(error.value)
    for word in (
        "--storage postgresql://ann:***@db.example",
        "everyone on the machine",
        "@FILE",
        "ZENNAS_STORAGE",
        "~/.pgpass",
    ):
        assert word in str(error.value)


def test_a_storage_comes_from_the_line_the_environment_or_a_file(tmp_path, monkeypatch):
    assert asked_storage(None) is None and asked_storage("sqlite:///a.db") == "sqlite:///a.db"
    file = tmp_path / "storage"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert asked_storage(f"@{file}") == SECRET
    monkeypatch.setenv(storages.VARIABLE, SECRET)
    assert asked_storage(None) == SECRET  # an environment is its user's alone
    assert asked_storage("journal:a.log") == "journal:a.log"
    monkeypatch.setenv(storages.VARIABLE, f"@{file}")
    assert asked_storage(None) == SECRET
    monkeypatch.setenv(storages.VARIABLE, "")
    assert asked_storage(None) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_with_a_password_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "storage"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(UserError, match=rf"others may read it \(mode {mode:o}\): chmod 600") as error:
        asked_storage(f"@{file}")
    assert PASSWORD not in str(error.value)
    file.write_text("postgresql://ann@db/faces")  # nothing to hide
    assert asked_storage(f"@{file}") == "postgresql://ann@db/faces"


@pytest.mark.parametrize(
    ("content", "said"), [("", "holds 0 lines"), ("a\nb\n", "holds 2 lines"), (None, "cannot be read")]
)
def test_a_file_that_holds_no_storage_is_one_line(tmp_path, content, said):
    file = tmp_path / "storage"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=rf"--storage @.*storage: {said}"):
        asked_storage(f"@{file}")


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export {folder}/nfs nfs4 rw,relatime 0 0
ann@host: {folder}/ssh fuse.sshfs rw 0 0
tmpfs {folder}/nfs/fast tmpfs rw 0 0
server:/other {folder}/with\\040space cifs rw 0 0
"""


def test_network_disks_are_known_by_their_kind(tmp_path):
    mounts = MOUNTS.format(folder=tmp_path)
    for name, kind in {
        "nfs": "nfs4",
        "ssh": "sshfs",
        "nfs/fast": None,
        "nfsx": None,
        "with space": "cifs",
        "": None,
    }.items():
        (tmp_path / name).mkdir(exist_ok=True)
        assert network_disk(tmp_path / name / "deep" / "study.db", mounts=mounts) == kind, name
    assert network_disk(tmp_path / "study.db") is None  # as this machine has it


def test_sqlite_is_refused_for_what_it_is_not_for(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/study.db"
    with pytest.raises(UserError, match=r"one process write at a time .*--islands 4 use PostgreSQL .*journal:FILE"):
        open_storage(url, num_islands=4)
    monkeypatch.setattr(storages, "network_disk", lambda path: "nfs4")
    with pytest.raises(UserError, match=r"network disk \(nfs4\), where SQLite's locks do not hold .*PostgreSQL"):
        open_storage(url)
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize("url", ["grpc://", "grpc://head", "grpc://head:port", "grpc://:13000"])
def test_a_proxy_without_host_or_port_is_one_line(url):
    with pytest.raises(UserError, match=r"expected grpc://HOST:PORT, such as grpc://127\.0\.0\.1:13000"):
        open_storage(url)


def test_a_proxy_that_does_not_answer_is_told_how_to_start(monkeypatch):
    monkeypatch.setattr(storages, "CONNECT_S", 0.3)
    with pytest.raises(
        UserError, match=r"no Optuna gRPC proxy answered within 0.3 s; start it with: python -c"
    ) as error:
        open_storage("grpc://127.0.0.1:1")
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture(params=["sqlite", "journal", "postgres", "grpc"])
def any_url(request, tmp_path):
    """The URL of a storage of each kind, really there."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
    elif request.param == "journal":
        yield f"journal:{tmp_path}/study.log"
    elif request.param == "postgres":
        yield request.getfixturevalue("database")
    else:
        proxy = Proxy(request.getfixturevalue("database"), tmp_path)
        yield proxy.url
        proxy.stop()


def test_a_study_is_kept_and_found_again(any_url):
    study = optuna.create_study(storage=open_storage(any_url), study_name="one")
    study.add_trial(optuna.trial.create_trial(value=1.5, user_attrs={"key": "a"}))
    study._storage.set_study_system_attr(study._study_id, "state", '{"a": 1}')
    again = optuna.load_study(storage=open_storage(any_url), study_name="one")
    assert [trial.value for trial in again.trials] == [1.5]
    assert again._storage.get_study_system_attrs(again._study_id)["state"] == '{"a": 1}'


def test_a_journal_whose_writer_was_killed_is_waited_for_no_longer_than_its_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(storages, "JOURNAL_GRACE_S", 3)
    url = f"journal:{tmp_path}/study.log"
    open_storage(url).create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    os.symlink(tmp_path / "study.log", tmp_path / "study.log.lock")  # what a killed writer leaves behind
    monkeypatch.chdir(tmp_path)
    url = "journal:study.log"
    start = time.monotonic()
    optuna.load_study(storage=open_storage(url), study_name="one").set_user_attr("a", 1)
    assert 2 < time.monotonic() - start < 20


STARTER = """
import sys
from zennas.search.store import Store
from zennas.track import load_space
store = Store(load_space("ir_se_tiny"), sys.argv[1], "run", num_islands=8)
print(store.take_island())
"""


def test_drivers_that_begin_an_empty_database_together_do_not_stumble(database):
    """Optuna creates its tables, the study and its attributes where they are missing; four find them missing at
    once."""
    begun = [Forked(STARTER, database) for _ in range(4)]
    ended = [process.communicate() for process in begun]
    assert [process.returncode for process in begun] == [0] * 4, ended


def lost():
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))


def test_what_a_store_gets_over_is_tried_again_and_told_twice():
    errors, said = [lost(), ConnectionResetError("reset"), optuna.exceptions.StorageInternalError("x")], []
    errors[2].__cause__ = lost()

    def call():
        if errors:
            raise errors.pop()
        return "answer"

    assert patiently(call, say=said.append) == "answer"
    assert (
        len(said) == 2 and "does not answer" in said[0] and "nothing is lost" in said[0] and "answers again" in said[1]
    )


@pytest.mark.parametrize("error", [ValueError("a NaN"), KeyError("no study"), TypeError("a set")])
def test_what_a_store_refuses_is_not_tried_again(error):
    calls = []

    def call():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        patiently(call)
    assert calls == [1] and not passes(error)


def test_patience_ends_by_the_clock_or_when_it_is_told_to():
    def call():
        raise lost()

    start = time.monotonic()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        patiently(call, patience_s=0.5)
    gave_up = threading.Event()
    threading.Timer(0.3, gave_up.set).start()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        patiently(call, patience_s=60, gave_up=gave_up)
    assert 0.7 < time.monotonic() - start < 5


def test_a_locked_sqlite_is_something_it_gets_over(tmp_path):
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"timeout": 0.1})

    def call():
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        return True

    with pytest.raises(sqlalchemy.exc.OperationalError):
        patiently(call, patience_s=0.3)
    holder.execute("COMMIT")
    assert patiently(call, patience_s=5)
    holder.close()
