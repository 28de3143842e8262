"""Scorers that die, hang and eat memory, on a real local Ray: the candidate that did it fails, and all others are
scored.
"""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.processes import forked
from tests.search.hosts import without_loopback
from tests.shapes import FACE
from zennas import ray_connection
from zennas.latency.quiet import measuring, scoring
from zennas.records import UserError
from zennas.search import workers as of_workers
from zennas.search.workers import Workers
from zennas.space.candidate import Candidate
from zennas.track import ScorePlan, SearchPlan

pytestmark = pytest.mark.slow

PLAN = ScorePlan(name="faulty", image_px=16, batch=2, repeats=1)
FAULTY = pathlib.Path(__file__).parent / "faulty"


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def times(tmp_path_factory):
    """The file in which scorers of stem 56 write when they began and ended."""
    return tmp_path_factory.mktemp("faulty") / "times"


@pytest.fixture(scope="module")
def workers(said, checkout, times):
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"], os.environ["FAULTY_TIMES"] = f"{FAULTY}:{checkout}", str(times)
    made = Workers(2, plan=SearchPlan(candidate_timeout_s=4.0, candidate_memory_gb=2.0), say=said.append)
    yield made
    made.close()
    os.environ["PYTHONPATH"] = before


def candidates(*stems):
    return [
        Candidate(block="ir", stem=stem, widths=(8 * at, 16), depths=(1, 1)) for at, stem in enumerate(stems, start=1)
    ]


def scored(workers, *stems):
    asked = candidates(*stems)
    found = workers.results(workers.submit(asked, PLAN, shape=FACE, seed=0), len(asked))
    for candidate, one in zip(asked, found, strict=True):
        if candidate.stem == 8:
            assert (one.value, one.error) == (sum(candidate.widths), None)
        else:
            assert one.value is None
    return {candidate.stem: one.error for candidate, one in zip(asked, found, strict=True)}


def test_a_candidate_that_kills_its_worker_fails_alone(workers, said):
    said.clear()
    errors = scored(workers, *[8] * 10, 16, *[8] * 9)
    assert errors[16] == "WorkerDied: a worker died or had to be stopped, 3 times"
    assert "while 20 candidates were scored: they are scored again" in said[0]
    assert "again while 20 candidates were scored: they are scored in smaller parts, each alone" in said[1]


def test_a_candidate_that_hangs_fails_when_its_time_is_up(workers, said):
    said.clear()
    start = time.monotonic()
    assert scored(workers, 8, 24, 8)[24] == "TooLongError: took longer than 4 s"
    assert 2 < time.monotonic() - start < 10 and said == []


def test_one_that_hears_no_alarm_takes_its_worker_along(workers, said):
    said.clear()
    errors = scored(workers, 8, 8, 32, 8)
    assert "a worker died or had to be stopped" in errors[32] and len(said) >= 2


def test_a_candidate_that_wants_all_memory_fails_alone_and_kills_nobody(workers, said):
    said.clear()
    assert scored(workers, 8, 40, 8)[40].startswith("MemoryError") and said == []


def test_a_candidate_that_raises_is_no_fault_of_its_worker(workers, said):
    said.clear()
    assert scored(workers, 8, 48)[48] == "FloatingPointError: a score of inf" and said == []


def _title(process):
    try:
        return pathlib.Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def processes_called(title):
    return [
        int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit() and title in _title(path.name)
    ]


def slowly_then(path):
    """On the device: say who measures, and take a while the first time."""
    first = not pathlib.Path(path).exists()
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60 if first else 0)
    return os.getpid()


def test_a_measurement_whose_process_was_killed_is_made_again(workers, said, tmp_path):
    said.clear()
    note, found = tmp_path / "note", []
    thread = threading.Thread(target=lambda: found.append(workers.on_device(slowly_then, str(note))))
    thread.start()
    while not (note.exists() and note.read_text()):
        time.sleep(0.1)
    first = int(note.read_text())
    os.kill(first, signal.SIGKILL)
    thread.join(60)
    assert found and found[0] != first
    assert said == ["a worker died or had to be stopped while it measured: measured again"]


def test_whoever_waits_for_long_says_so(workers, said, monkeypatch):
    monkeypatch.setattr(ray_connection, "PATIENCE_S", 0.2)
    monkeypatch.setattr(of_workers, "PATIENCE_S", 0.2)
    said.clear()
    workers.on_device(time.sleep, 0.5)
    assert said and all(text.startswith(f"waiting for a measurement on {workers.machine}, ") for text in said)
    said.clear()
    assert workers.at_once(time.sleep, [(0.5,)]) == [None]
    assert said and all(text.startswith("waiting for what is made beside the search for 0 s") for text in said)
    said.clear()
    with measuring():  # scorers stand aside
        job = workers.submit(candidates(8), PLAN, shape=FACE, seed=0)
        while not said:
            workers.wait(job, 0.05)
    assert said[0].startswith("waiting for a scorer for 0 s: another run that measures")
    workers.results(job, 1)


def test_a_device_that_is_gone_ends_a_run_and_one_that_is_held_is_waited_for_in_words(cluster, tmp_path):
    """Nodes of a cluster, of which one alone owns the device."""
    cluster.head("--num-cpus", 1)
    owner = cluster.join("--num-cpus", 0, "--resources", '{"latency_device:own": 1}')
    ended = forked(DRIVER, cluster.address, owner.process.pid, tmp_path / "began", timeout=240)
    assert ended.stdout.splitlines()[-2:] == ["held: waiting for a measurement on", "gone: UserError"], ended.stderr
    assert "no node of the cluster carries the resource 'latency_device:own'" in ended.stderr


DRIVER = """
import os, pathlib, sys, threading, time
from tests.search.hosts import below
from tests.search.test_workers import slowly_then
from zennas import ray_connection
from zennas.records import UserError
from zennas.search.workers import Workers
from zennas.track import SearchPlan
ray_connection.PATIENCE_S = 1.0
said = []
workers = Workers(1, address=sys.argv[1], device="own", plan=SearchPlan(), say=said.append)
other = threading.Thread(target=workers.on_device, args=(time.sleep, 4), daemon=True)
other.start()
time.sleep(1.0)
workers.on_device(os.getpid)
print("held:", " ".join(said[0].split()[:5]))
def lose():
    while not pathlib.Path(sys.argv[3]).exists():
        time.sleep(0.1)
    for process in [*below(int(sys.argv[2])), int(sys.argv[2])]:
        os.kill(process, 9)
threading.Thread(target=lose, daemon=True).start()
try:
    workers.on_device(slowly_then, sys.argv[3])
except UserError as error:
    print("gone:", type(error).__name__)
    print(error, file=sys.stderr)
workers.close()
"""


def test_what_a_measurement_raises_is_raised(workers):
    with pytest.raises(ZeroDivisionError):
        workers.on_device(lambda: 1 // 0)


def spanned():
    """What a measurement would be: (from, to)."""
    begun = time.time()
    time.sleep(0.3)
    return begun, time.time()


def test_nothing_is_scored_beside_a_measurement(workers, times):
    """Neither beside one of this run nor beside one that another process of this machine makes."""
    times.write_text("")
    jobs, measured = [workers.submit(candidates(*[56] * 8), PLAN, shape=FACE, seed=0) for _ in range(24)], []
    deadline = time.monotonic() + 60
    while not times.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(3):
        with measuring():
            measured.append(spanned())
        time.sleep(0.3)
    assert not all(workers.ready(job) for job in jobs)
    measured.append(workers.on_device(spanned))
    jobs += [workers.submit(candidates(*[56] * 8), PLAN, shape=FACE, seed=0) for _ in range(2)]
    for job in jobs:
        workers.results(job, 8)
    scored = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    assert len(scored) == 26 * 8 and min(scored)[0] < measured[0][0] and max(scored)[1] > measured[-1][1]
    assert not [one for one in scored for begun, ended in measured if one[0] < ended and one[1] > begun]


# Three nodes: the device's, tagged twice, with two processors and 6 GiB; one of a processor and a GPU; one of a GPU
# alone.
CLUSTER = """
    import time
    import ray
    from ray.cluster_utils import Cluster
    from zennas.search.workers import Workers
    from zennas.records import UserError
    from zennas.track import SearchPlan
    device = {"latency_device:xeon": 1, "latency_device:pi": 1}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": device, "memory": 6 * 2**30})
    cluster.add_node(num_cpus=1, num_gpus=1, memory=8 * 2**30)
    cluster.add_node(num_cpus=0, num_gpus=1)
    for device in (None, "phone", "xeon"):
        try:
            workers = Workers(address=cluster.address, device=device, plan=SearchPlan(scorers_per_gpu=2))
        except UserError as error:
            print("error:", error)
    kinds = [(kind.device, kind.num) for kind in workers.kinds]
    print("kinds", kinds, "machine", workers.machine == workers.machine_of("pi"), "GiB", workers._memory_bytes / 2**30)

    def free():
        deadline = time.monotonic() + 20  # until the head has heard of it
        while time.monotonic() < deadline:
            found = sorted(name for name in ray.available_resources() if name.startswith("latency_device"))
            if not found:
                return found
            time.sleep(0.2)
        return found

    print("beside a measurement", workers.on_device(free), "free")
    workers.close()
    cluster.shutdown()
"""


def in_a_process(code, checkout):
    environment = without_loopback(os.environ) | {"PYTHONPATH": str(checkout), "RAY_AUTH_MODE": "disabled"}
    words = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=180, check=False)


def test_a_cluster_is_counted_node_by_node_and_its_device_measures_alone(checkout):
    ended = in_a_process(CLUSTER, checkout)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("error:", "kinds", "beside"))]
    assert "no node of the cluster carries the resource 'latency_device', on which latency is measured" in lines[0]
    assert "(there: latency_device:pi, latency_device:xeon)" in lines[0] and "'latency_device:phone'" in lines[1]
    # A scorer on a GPU holds a processor of its node; of the three processors one is the GPU's.
    assert lines[2] == "kinds [('cuda', 1), ('cpu', 2)] machine True GiB 3.0"
    assert lines[3] == "beside a measurement [] free"


def test_workers_that_cannot_run_zennas_are_one_line(workers, monkeypatch):
    def broken(*arguments):
        raise ModuleNotFoundError("No module named 'zennas'")

    monkeypatch.setattr(of_workers, "_score_batch", broken)
    kinds = [of_workers.Kind("cpu", 1)]
    monkeypatch.setattr(workers, "kinds", kinds)
    with pytest.raises(
        UserError, match="a worker cannot run zennas: No module named 'zennas'; every node of a cluster needs"
    ):
        workers.warm_up()


NOBODY = """
    from zennas.records import UserError
    from zennas.search.workers import Workers
    from zennas.track import SearchPlan
    try:
        Workers(address="127.0.0.1:1", plan=SearchPlan())
    except UserError as error:
        print("error:", error)
"""


def test_a_cluster_that_is_not_there_is_one_line(checkout):
    ended = in_a_process(NOBODY, checkout)
    assert ended.returncode == 0 and ended.stdout.startswith("error: --address 127.0.0.1:1: nobody answers there ("), (
        ended
    )


def test_a_process_that_uses_ray_already_keeps_its_connection(workers):
    with pytest.raises(RuntimeError, match="connected to a Ray already"):
        Workers(1, plan=SearchPlan())
    assert workers.on_device(os.getpid) != os.getpid()


def _half(number, at_pid):
    if number == 7 and os.getpid() != at_pid:
        os.kill(os.getpid(), signal.SIGKILL)
    return number / (number - 4)


def test_what_is_done_side_by_side_comes_in_order_and_one_that_fails_or_dies_takes_no_other_with_it(workers, said):
    answers = workers.at_once(_half, [(number, os.getpid()) for number in (2, 4, 6, 7)])
    assert answers[0] == -1.0 and isinstance(answers[1], ZeroDivisionError) and answers[2] == 3.0
    assert answers[3] == 7 / 3 and any("done again here" in text for text in said)


def _timed(path):
    """What stands aside itself, and times something."""
    with scoring():
        time.sleep(0.1)
    with measuring():
        with open(path, "a", encoding="utf-8") as file:
            file.write("begun\n")
        time.sleep(0.1)
        with open(path, "a", encoding="utf-8") as file:
            file.write("ended\n")
    return True


def test_what_times_something_is_done_side_by_side_and_timed_one_after_the_other(workers, tmp_path):
    assert workers.at_once(_timed, [(tmp_path / "times",)] * 6, measures=True) == [True] * 6
    assert (tmp_path / "times").read_text().split() == ["begun", "ended"] * 6
