"""What goes wrong on a cluster, done for real: drivers, workers, nodes, databases and networks that die under a search.

After each: nothing that was scored or measured is lost, no trial is doubled, none is left running, the best is never
worse, and the run says what happened.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import optuna
import pandas
import pytest

from tests.search import hosts
from tests.search.conftest import write_tiny
from tests.search.hosts import below
from tests.search.servers import PASSWORD, Proxy
from tests.search.test_search import SLOW_SCORE, kept_part, lines_of, rows_of, scorers_of, searching, state_of
from zennas.search.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="by /proc")]

KILLS = 20
LONG = 320


def best_of(rows):
    return rows["score"].max()


def trials_of(url, name="run"):
    return optuna.load_study(study_name=name, storage=open_storage(url)).get_trials(deepcopy=False)


def assert_sound(url, name="run"):
    """No trial is doubled, and none is left running; those of the drivers neither."""
    trials = trials_of(url, name)
    keys = collections.Counter(trial.user_attrs["key"] for trial in trials)
    assert max(keys.values()) == 1, keys.most_common(3)
    drivers = trials_of(url, f"{name} drivers")
    assert not [trial for trial in [*trials, *drivers] if not trial.state.is_finished()]
    return trials


@pytest.fixture
def tiny_run(tmp_path, start, finished):
    """begin(*more, num, out) -> the command over a search of `num` candidates with scores that take a while; `finished`
    has filled the latency cache."""
    experiment = write_tiny(tmp_path / "tiny", score=SLOW_SCORE, num_winners=1, max_finalists=1)

    def begin(*more, num=LONG, out=None, inside=()):
        arguments = ["--track", experiment, "--out", out or tmp_path / "run", "--candidates", num, "--budget-ms", 1000]
        return start("search", *arguments, *more, inside=inside)

    return begin


def kill(command):
    command.kill()
    command.process.wait()


def test_a_driver_killed_at_twenty_random_moments_loses_nothing(tiny_run, tmp_path):
    out, moments = tmp_path / "run", random.Random(0)
    known, measured, best, ended = [], [], float("-inf"), None
    for _ in range(KILLS):
        command = tiny_run()
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(moments.uniform(0.2, 8.0))  # a whole run takes longer, its Ray four
        if command.process.returncode is not None:
            ended = command.end()
            break
        kill(command)
        if kept_part(out):
            rows = rows_of(out)
            assert rows["key"].tolist()[: len(known)] == known  # in their order, and nothing twice
            assert rows["key"].is_unique and not best_of(rows) < best
            known, best = rows["key"].tolist(), best_of(rows)
        if (out / "measured.jsonl").exists():
            lines = lines_of(out)
            assert lines[: len(measured)] == measured
            measured = lines
    ended = ended or tiny_run().end()
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    rows = rows_of(out)
    assert rows["key"].tolist()[: len(known)] == known and len(rows) >= LONG and best_of(rows) >= best
    assert state_of(out)["finished"] and "its driver" in (out / "search.log").read_text()
    assert_sound(f"sqlite:///{out / 'study.db'}")


@pytest.fixture
def shared(request, tmp_path):
    """(URL of a store that several drivers share, the words that give it to the command without a password in them)."""
    proxy = None
    if request.param == "journal":
        url = f"journal:{tmp_path}/study.log"
        words = ["--storage", url]
    else:
        url = request.getfixturevalue("database")
        if request.param == "grpc":
            proxy = Proxy(url, tmp_path)
            url, words = proxy.url, ["--storage", proxy.url]
        else:
            secret = tmp_path / "storage"
            secret.write_text(url)
            secret.chmod(0o600)
            words = ["--storage", f"@{secret}"]
    yield url, words
    if proxy:
        proxy.stop()


# Each of these takes a minute, so each store that is not PostgreSQL itself has its turn in one of the two.
@pytest.mark.parametrize("shared", ["postgres", "journal"], indirect=True)
def test_a_driver_goes_on_elsewhere_from_the_store_and_the_table(tiny_run, shared, tmp_path):
    """The second driver has neither the folder nor the latency cache of the first."""
    url, words = shared
    words += ["--table", f"file://{tmp_path}/shared/table"]
    here, there = tmp_path / "here" / "run", tmp_path / "there" / "run"
    command = tiny_run(*words, out=here)
    command.until(lambda: len(list((tmp_path / "shared" / "table").glob("part-*"))) > 1)
    kill(command)
    before, lines = pandas.read_parquet(tmp_path / "shared" / "table"), lines_of(here)
    shutil.move(here, tmp_path / "lost")
    ended = tiny_run(*words, out=there).end()
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    assert (
        "has died; taken back" in ended.said and f"{len(before)} scored and {len(lines)} measured before" in ended.said
    )
    after = pandas.read_parquet(tmp_path / "shared" / "table")
    assert after["key"].tolist()[: len(before)] == before["key"].tolist() and after["key"].is_unique
    assert len(after) >= LONG and best_of(after) >= best_of(before)
    assert sorted(lines_of(there)[: len(lines)]) == sorted(lines)  # what was measured is not measured again
    trials = assert_sound(url)
    roles = collections.Counter(trial.user_attrs["role"] for trial in trials)
    assert roles["baseline"] == 2 and roles["measured"] >= 1


@pytest.mark.parametrize("shared", ["postgres", "grpc"], indirect=True)
def test_islands_share_a_study_and_score_nothing_twice(start, shared, tmp_path, finished):
    url, words = shared
    experiment, out = write_tiny(tmp_path / "tiny", max_finalists=2), tmp_path / "run"
    arguments = [
        "--track",
        experiment,
        "--out",
        out,
        "--candidates",
        120,
        "--budget-ms",
        1000,
        "--workers",
        1,
        "--islands",
        3,
    ]
    commands = [start("search", *arguments, *words) for _ in range(3)]
    ended = [command.end(300) for command in commands]
    assert [one.code for one in ended] == [0, 0, 0], [one.said for one in ended]
    rows = pandas.read_parquet(out / "scored.parquet")
    assert rows["key"].is_unique and set(rows["island"]) == {0, 1, 2} and (rows.groupby("island").size() >= 40).all()
    trials = assert_sound(url)
    assert collections.Counter(trial.user_attrs["role"] for trial in trials)["baseline"] == 2
    finals = [(out / f"island-{island}" / "winners.json").is_file() for island in range(3)]
    assert finals == [True, True, True]
    # The last one through the finals knows what all of them scored.
    bests = [best_of(rows[rows["island"] == island]) for island in range(3)]
    found = max(trial.values[0] for trial in trials if trial.user_attrs["role"] == "measured")
    assert found >= max(bests) - 2.0  # a score again, with other random numbers
    again = [start("search", *arguments, *words).end(120) for _ in range(1)]
    assert again[0].code == 0 and "this run is finished" in again[0].stdout
    more = [value if value != 120 else 180 for value in arguments]
    extended = [start("search", *more, *words) for _ in range(3)]
    ended = [one.end(300) for one in extended]
    assert [one.code for one in ended] == [0, 0, 0], [one.said for one in ended]
    rows = pandas.read_parquet(out / "scored.parquet")
    assert rows["key"].is_unique and len(rows) >= 180
    assert_sound(url)


OTHER_SCORE = {"name": "naswot", "image_px": 16, "batch": 4}


def test_islands_of_a_score_without_a_closed_form_share_a_study_too(start, tmp_path, finished):
    experiment, out = write_tiny(tmp_path / "tiny", score=OTHER_SCORE, num_winners=1, max_finalists=1), tmp_path / "run"
    words = ["--track", experiment, "--candidates", 40, "--budget-ms", 1000, "--workers", 1, "--out", out]
    words += ["--storage", f"journal:{tmp_path}/study.log"]
    ended = [one.end(240) for one in [start("search", *words, "--islands", 2) for _ in range(2)]]
    assert [one.code for one in ended] == [0, 0], [one.said for one in ended]
    rows = pandas.read_parquet(out / "scored.parquet")
    assert rows["key"].is_unique and set(rows["island"]) == {0, 1} and rows["error"].isna().all()
    assert_sound(f"journal:{tmp_path}/study.log")
    refused = start("search", *words, "--islands", 3).end()
    assert refused.code == 2 and "settings (islands: 2, now 3)" in refused.stderr, refused.said


def test_a_finished_run_taken_up_elsewhere_has_its_files_there_and_does_nothing_again(start, tmp_path, finished):
    experiment, store = (
        write_tiny(tmp_path / "tiny", score=OTHER_SCORE, num_winners=1, max_finalists=1),
        f"{tmp_path}/study.db",
    )
    words = ["--track", experiment, "--candidates", 40, "--budget-ms", 1000, "--storage", f"sqlite:///{store}"]
    words += ["--table", tmp_path / "table"]
    found = []
    for place in ("here", "there", "there"):
        ended = start("search", *words, "--out", tmp_path / place / "run").end()
        assert ended.code == 0 and "Traceback" not in ended.said, ended.said
        winner = json.loads((tmp_path / place / "run" / "winners.json").read_text())[0]
        rows, trials = pandas.read_parquet(tmp_path / "table")["key"].tolist(), trials_of(f"sqlite:///{store}")
        found.append((winner["key"], winner["latency"]["raw_ms"], rows, len(trials)))
        for name in ("winner-1.onnx", "winner-1.yaml", "report.html"):
            assert (tmp_path / place / "run" / name).stat().st_size
    assert found[0] == found[1] == found[2] and "this run is finished" in ended.stdout


def test_a_database_that_restarts_in_the_middle_costs_nothing(tiny_run, postgres, database, tmp_path):
    secret = tmp_path / "storage"
    secret.write_text(database)
    secret.chmod(0o600)
    out = tmp_path / "run"
    command = tiny_run("--storage", f"@{secret}")
    command.until(lambda: searching(out))
    postgres.restart(down_s=4.0)
    ended = command.end(240)
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    assert "the store does not answer" in ended.said and "the store answers again, after" in ended.said
    assert "the study is incomplete" not in ended.said
    assert rows_of(out)["key"].is_unique and rows_of(out)["error"].isna().all()
    trials = assert_sound(database)
    scored = {trial.user_attrs["key"] for trial in trials if trial.user_attrs["role"] == "scored"}
    assert scored <= set(rows_of(out)["key"]) and len(scored) > 3
    assert PASSWORD not in ended.said + (out / "search.log").read_text() + (out / "report.html").read_text()


def test_a_killed_scorer_is_said_and_costs_nothing(tiny_run, tmp_path):
    out = tmp_path / "run"
    command = tiny_run()
    command.until(lambda: searching(out) and scorers_of(command.process.pid))
    os.kill(scorers_of(command.process.pid)[0], signal.SIGKILL)
    ended = command.end()
    assert ended.code == 0 and "a worker died or had to be stopped while" in ended.said, ended.said
    assert rows_of(out)["error"].isna().all() and rows_of(out)["key"].is_unique
    assert_sound(f"sqlite:///{out / 'study.db'}")


def measuring(pid):
    """The processes that measure for the driver `pid`."""
    return scorers_of(pid, title=b"ray::_call")


def test_a_killed_measurement_is_made_again(tiny_run, tmp_path):
    out, track = tmp_path / "run", tmp_path / "tiny" / "track.yaml"
    # Each takes a third of a second or more: one is caught while it is taken, and does not end before it is killed.
    track.write_text(track.read_text().replace("num_runs: 10,", "num_runs: 3000,"))
    command = tiny_run()
    command.until(lambda: lines_of(out) if (out / "measured.jsonl").exists() else False)
    command.until(lambda: measuring(command.process.pid), timeout_s=300)
    os.kill(measuring(command.process.pid)[0], signal.SIGKILL)
    ended = command.end(300)
    assert ended.code == 0 and "while it measured: measured again" in ended.said, ended.said
    assert_sound(f"sqlite:///{out / 'study.db'}")


def test_a_lost_node_costs_nothing(tiny_run, cluster, tmp_path):
    out = tmp_path / "run"
    cluster.head("--num-cpus", 1)
    lost = cluster.join("--num-cpus", 1)
    command = tiny_run("--address", cluster.address)
    command.until(lambda: searching(out) and kept_part(out) and scorers_of(lost.process.pid))
    lost.kill()
    ended = command.end(300)
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    assert "a node of the cluster was lost while" in ended.said or "a worker died" in ended.said
    assert rows_of(out)["error"].isna().all() and rows_of(out)["key"].is_unique and len(rows_of(out)) >= LONG
    assert_sound(f"sqlite:///{out / 'study.db'}")


@pytest.mark.skipif(not hosts.possible(), reason="only root may make network namespaces, and not in every container")
def test_a_network_that_is_lost_for_ten_seconds_costs_nothing(tiny_run, cluster, tmp_path):
    """The head with the driver and the device on one host, a scorer on the other, and the cable between them pulled."""
    out, network = tmp_path / "run", hosts.Hosts(2)
    try:
        (head, other), (address, there) = network.names, network.addresses
        cluster.head("--num-cpus", 1, ip=address, namespace=head)
        cluster.join("--num-cpus", 1, ip=there, namespace=other)
        command = tiny_run("--address", cluster.address, inside=cluster.inside, num=2 * LONG)
        command.until(lambda: searching(out) and kept_part(out))
        network.pull_cable(other)
        time.sleep(10)
        assert command.process.poll() is None, command.end()
        network.plug_in(other)
        ended = command.end(300)
    finally:
        network.remove()
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    rows = rows_of(out)
    assert rows["error"].isna().all() and rows["key"].is_unique and len(rows) >= 2 * LONG
    assert_sound(f"sqlite:///{out / 'study.db'}")


def test_a_full_disk_stops_the_run_and_with_room_it_goes_on_with_all_it_had(tiny_run, small_disk):
    out, ballast = small_disk.path / "run", small_disk.path / "ballast"
    small_disk.resize(3)
    command = tiny_run(out=out)
    command.until(lambda: searching(out) and kept_part(out))
    with contextlib.suppress(OSError):
        ballast.write_bytes(b"x" * 10**7)
    ended = command.end()
    assert ended.code == 2 and "Traceback" not in ended.said, ended.said
    assert "No space left" in ended.stderr and "what was computed before is kept" in ended.stderr
    before, lines = rows_of(out), lines_of(out)
    assert len(before) and len(lines) == 2
    ballast.unlink()
    small_disk.resize(60)
    ended = tiny_run(out=out).end()
    assert ended.code == 0, ended.said
    after = rows_of(out)
    assert after["key"].tolist()[: len(before)] == before["key"].tolist() and after["key"].is_unique
    assert lines_of(out)[:2] == lines and best_of(after) >= best_of(before)
    assert_sound(f"sqlite:///{out / 'study.db'}")


def listening(pids):
    """{address} of the sockets on which these processes listen, as the kernel has them."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(link))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].split(":")[0])
    return found


def test_nothing_of_a_local_search_listens_beyond_this_machine(tiny_run, tmp_path):
    command = tiny_run()
    command.until(lambda: searching(tmp_path / "run") and scorers_of(command.process.pid))
    found = listening([command.process.pid, *below(command.process.pid)])
    # 127.0.0.1, ::1 and ::ffff:127.0.0.1, in the kernel's order of bytes.
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    command.press_ctrl_c()
    assert command.end().code == 130 and found and found <= loopback, found
