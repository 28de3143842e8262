"""The pool: parts are kept and not done twice, dead workers are replaced, and nobody outlives the run."""

import faulthandler
import functools
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tests.processes import Forked, forked
from zennas import pool
from zennas.pool import MAX_DEATHS, Pool, ahead_of
from zennas.records import ProcessLostError, UserError

SHORT_S, TOGETHER_S = 0.1, 0.2


def doubled(folder, number):
    """A part that leaves a trace of having been done."""
    (folder / f"done-{number}-{len(list(folder.glob(f'done-{number}-*')))}").touch()
    return {"double": np.array(2 * number), "row": np.arange(number)}


def broken(folder, number):
    if number == 2:
        raise RuntimeError("the power went")
    return doubled(folder, number)


def deadly_twice(folder, number):
    """Ends its process, at part 2, the first two times."""
    if number == 2 and len(list(folder.glob("died-*"))) < 2:
        (folder / f"died-{os.getpid()}").touch()
        os._exit(9)
    time.sleep(SHORT_S)
    return doubled(folder, number)


def deadly(folder, number):
    """Part 2 ends its process as soon as part 3 has begun beside it: together, part 3 is never done."""
    began = folder / "3-began"
    if number == 2:
        until = time.monotonic() + TOGETHER_S
        while not began.exists() and time.monotonic() < until:
            time.sleep(0.01)
        began.unlink(missing_ok=True)
        os._exit(9)
    if number == 3:
        began.touch()
        time.sleep(2 * TOGETHER_S)
    return doubled(folder, number)


def killed_as_it_sends(folder, number):
    """A large result; at part 2, the first time, the process is killed while it sends it."""
    if number == 2 and not (folder / "killed").exists():
        (folder / "killed").touch()
        killed_while_it_sends()
    return number, bytes(BIG)


def killed_together(folder, number):
    """The first three processes end when all of them have begun."""
    if len(list(folder.glob("began-*"))) < 3:
        (folder / f"began-{os.getpid()}").touch()
        while len(list(folder.glob("began-*"))) < 3:
            time.sleep(0.01)
        killed()
    return number


def unpicklable():
    return lambda: None


def without_memory(folder, number):
    if number == 1 and not (folder / "tried").exists():
        (folder / "tried").touch()
        raise MemoryError("1 GiB")
    return number


def unreadable(number):
    raise OSError(f"part {number} lies on a disk that is gone")


def mistaken(number):
    raise UserError(f"part {number} cannot be used")


def nowhere(folder, number):
    raise UserError(f"no folder {number}")


def endless(folder, number):
    (folder / f"at-{number}").touch()
    time.sleep(600)


def counted(mine, number):
    mine.append(number)
    return len(mine)


class Said:
    """A Progress that remembers."""

    def __init__(self):
        self.lines, self.counts = [], []

    def begin(self, stage):
        self.lines.append(stage)

    def counting(self, what):
        return lambda done, total: self.counts.append((done, total))

    def say(self, text, *, style=None):
        self.lines.append(text)

    def end(self):
        pass


def test_what_was_done_is_kept_and_the_rest_is_done(tmp_path):
    parts, folder = [(tmp_path, number) for number in range(5)], tmp_path / "parts"
    with pytest.raises(RuntimeError, match="power"):
        Pool().kept("doubling", broken, parts, folder=folder)
    said = Said()
    results = Pool(progress=said).kept("doubling", doubled, parts, folder=folder)
    assert [int(part["double"]) for part in results] == [0, 2, 4, 6, 8]
    assert [part["row"].tolist() for part in results] == [list(range(number)) for number in range(5)]
    assert sorted(path.name for path in tmp_path.glob("done-*")) == [f"done-{number}-0" for number in range(5)]
    assert said.lines == ["doubling"] and said.counts == [(3, 5), (4, 5), (5, 5)]
    assert Pool().kept("other", doubled, parts[:1], folder=folder) and (tmp_path / "done-0-1").exists()


def test_a_part_that_was_being_written_is_done_again(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".doubling-000000.npz.tmp").write_bytes(b"half")
    (result,) = Pool().kept("doubling", doubled, [(tmp_path, 1)], folder=tmp_path / "parts")
    assert int(result["double"]) == 2


def test_a_worker_that_dies_is_replaced_and_its_part_is_done_again(tmp_path):
    said, parts = Said(), [(tmp_path, number) for number in range(6)]
    with Pool(2, progress=said) as pool:
        results = pool.kept("doubling", deadly_twice, parts, folder=tmp_path / "parts")
        assert [int(part["double"]) for part in results] == [0, 2, 4, 6, 8, 10]
        assert sum("ended with exit code 9: what it was doing is done again" in line for line in said.lines) == 2
        # The new workers do what comes next.
        assert dict(pool.results(os.path.basename, [("a/b",)])) == {0: "b"}


def test_a_part_that_kills_every_worker_ends_the_run_and_the_others_are_kept(tmp_path):
    said = Said()
    message = f"died {MAX_DEATHS} times in a row.* finished parts are kept"
    with Pool(2, progress=said) as pool, pytest.raises(UserError, match=message):
        pool.kept("doubling", deadly, [(tmp_path, number) for number in range(4)], folder=tmp_path / "parts")
    kept = {path.name for path in (tmp_path / "parts").glob("*.npz")}
    assert kept == {f"doubling-{number:06d}.npz" for number in (0, 1, 3)}


def test_a_worker_that_is_killed_in_the_middle_of_a_result_is_replaced(tmp_path):
    """Nobody waits for the rest of it."""
    said, done = Said(), []
    with Pool(2, progress=said) as pool:
        for number, (again, data) in pool.results(killed_as_it_sends, [(tmp_path, number) for number in range(5)]):
            assert again == number and len(data) == BIG
            done.append(number)
            time.sleep(0.5)  # what no pipe holds waits meanwhile for whoever takes it
    assert sorted(done) == [0, 1, 2, 3, 4] and [line for line in said.lines if "SIGKILL" in line] == said.lines
    assert (tmp_path / "killed").exists() and len(said.lines) == 1


def test_workers_that_die_together_are_one_death(tmp_path, monkeypatch):
    """As a machine without memory ends them; afterwards one alone may do it."""
    monkeypatch.setattr(pool, "MAX_DEATHS", 3)
    said = Said()
    with Pool(3, progress=said) as workers:
        done = dict(workers.results(killed_together, [(tmp_path, number) for number in range(3)]))
    assert done == {0: 0, 1: 1, 2: 2} and sum("SIGKILL" in line for line in said.lines) == 3


def test_a_worker_that_hangs_is_told_of_and_the_run_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE_S", 0.05)
    said, before = Said(), set(multiprocessing.active_children())

    def say(text, *, style):
        said.lines.append(text)
        raise KeyboardInterrupt

    said.say = say
    with Pool(2, progress=said) as workers, pytest.raises(KeyboardInterrupt):
        list(workers.results(endless, [(tmp_path, 0)]))
    assert said.lines == ["waiting for 1 worker process(es) for 0 s, which have a part each"]
    assert set(multiprocessing.active_children()) == before


def test_a_worker_without_memory_is_replaced(tmp_path):
    said = Said()
    with Pool(2, progress=said) as pool:
        assert dict(pool.results(without_memory, [(tmp_path, number) for number in range(3)])) == {0: 0, 1: 1, 2: 2}
    assert len(said.lines) == 1 and "has no memory left: 1 GiB: what it was doing is done again" in said.lines[0]


def test_a_result_that_cannot_be_sent_is_a_mistake_of_ours():
    with Pool(2) as pool, pytest.raises(RuntimeError, match=r"(?s)^in a worker:\nTraceback.*pickle"):
        list(pool.results(unpicklable, [()]))


FULL = """
import ctypes, os, sys
from tests.test_pool import Pool, SHARED_MEMORY, sent
libc = ctypes.CDLL(None, use_errno=True)
namespace, private, recursive = 0x20000, 1 << 18, 1 << 14
if libc.unshare(namespace) or libc.mount(b"none", b"/", None, recursive | private, None):
    sys.exit("not allowed")
if libc.mount(b"tmpfs", SHARED_MEMORY.encode(), b"tmpfs", 0, b"size=4k"):
    sys.exit("not allowed")
with open(f"{SHARED_MEMORY}/full", "wb", buffering=0) as file:
    file.write(bytes(4096))
with Pool(2) as pool:
    print(sorted(len(data) for _, (_, data) in pool.results(sent, [(0,), (1,)])))
"""
SHARED_MEMORY = "/dev/shm"


def test_no_shared_memory_is_needed():
    """A container may have none left."""
    ended = forked(FULL)
    if "not allowed" in ended.stderr:
        pytest.skip("this user may not mount")
    assert ended.stdout == f"[{BIG}, {BIG}]\n", ended.stderr


def test_a_script_is_not_run_again_by_its_workers(tmp_path):
    """As multiprocessing has it where a script calls from its top, without `if __name__ == "__main__":`."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, zennas.pool\n"
        "print('begun')\n"
        "parts = [('a/b',), ('c/d',)]\n"
        "with zennas.pool.Pool(2) as pool:\n"
        "    print(dict(pool.results(os.path.basename, parts)) == {0: 'b', 1: 'd'}, os.path.basename(__file__))\n"
    )
    ended = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == ["begun", "True script.py"] and not ended.stderr


def test_what_is_shared_is_sent_to_a_process_once():
    """And a process keeps it: each counts its own parts in it."""
    with Pool(2, shared=([],)) as pool:
        counts = sorted(count for _, count in pool.results(counted, [(number,) for number in range(8)]))
    assert len(counts) == 8 and counts.count(1) <= 2 and max(counts) >= 4


def threads():
    return {library["num_threads"] for library in threadpool_info()}


def test_a_worker_has_as_many_threads_as_it_is_given():
    with Pool(2, num_threads=1) as pool:
        assert dict(pool.results(threads, [()])) == {0: {1}}


@pytest.mark.parametrize(("function", "message"), [(unreadable, "a worker: part 0 lies"), (mistaken, "part 0 cannot")])
def test_a_worker_s_mistake_is_one_line_of_the_run(function, message):
    with Pool(2) as pool, pytest.raises(UserError, match=message):
        list(pool.results(function, [(0,)]))


def test_this_process_can_be_asked_for_though_there_are_others():
    with Pool(2, shared=([],)) as pool:
        assert list(pool.results(counted, [(0,), (1,)], here=True)) == [(0, 1), (1, 2)]


RUN = """
import pathlib, signal, sys
from tests.test_pool import endless
from zennas.pool import Pool
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = pathlib.Path(sys.argv[1])
    with Pool(2) as pool:
        list(pool.results(endless, [(folder, number) for number in range(20)]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_run_that_started_them(tmp_path, number):
    """At once, whatever they are doing. They hold its output, and `communicate` waits for whoever does."""
    (tmp_path / "run.py").write_text(RUN)
    root = str(pathlib.Path(__file__).parent.parent)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": root},
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("at-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode != 0 and len(list(tmp_path.glob("at-*"))) >= 2


@pytest.mark.slow  # a Ray has to start
def test_a_cluster_does_what_processes_do(tmp_path):
    """A private Ray stands for the cluster: parts are kept, a dead worker is replaced, a mistake is one line."""
    with Pool(address="local", num_threads=1, shared=(tmp_path,)) as pool:
        results = pool.kept("doubling", deadly_twice, [(number,) for number in range(4)], folder=tmp_path / "parts")
        assert [int(part["double"]) for part in results] == [0, 2, 4, 6] and len(list(tmp_path.glob("died-*"))) == 2
        with pytest.raises(UserError, match="a worker: no folder 0; with --address every node"):
            list(pool.results(nowhere, [(0,)]))


# --- processes that work ahead

BIG = 4_000_000  # bytes of a result: more than a pipe holds


def ahead(function, parts, **options):
    given = {"num_workers": 2, "what": "a counting process", "instead": "--workers 0", "begin": faulthandler.disable}
    return ahead_of(function, parts, **(given | options))


def sent(number, then=None):
    """A large result; at one number the process does something else."""
    if then is not None:
        then()
    return number, bytes(BIG)


def killed(number=signal.SIGKILL):
    os.kill(os.getpid(), number)


def killed_while_it_sends():
    threading.Timer(0.3, killed).start()


def refused():
    raise UserError("no such thing")


def torn():
    raise OSError(5, "Input/output error")


def full():
    raise MemoryError("1 GiB")


@pytest.mark.parametrize("num_parts", [0, 1, 3, 9])
def test_results_come_in_the_order_of_the_parts(num_parts):
    assert [number for number, _ in ahead(sent, [(number,) for number in range(num_parts)])] == [*range(num_parts)]


@pytest.mark.parametrize(
    ("then", "kind", "says"),
    [
        (killed, ProcessLostError, r"^a counting process \(\d+\) was killed \(SIGKILL\), as .* memory runs out$"),
        (
            functools.partial(killed, signal.SIGBUS),
            ProcessLostError,
            r"was killed \(SIGBUS\), as where .*/dev/shm is full",
        ),
        (functools.partial(os._exit, 7), ProcessLostError, r"\(\d+\) ended with exit code 7$"),
        (full, ProcessLostError, r"has no memory left: 1 GiB$"),
        (refused, UserError, r"^no such thing$"),
        (torn, UserError, r"^a counting process: \[Errno 5\] Input/output error$"),
    ],
)
def test_a_process_that_cannot_go_on_ends_the_run_in_one_line(then, kind, says):
    results = ahead(sent, [(0,), (1,), (2, then), (3,)])
    assert [next(results)[0], next(results)[0]] == [0, 1]
    with pytest.raises(kind, match=says) as caught:
        next(results)
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_a_death_in_the_middle_of_a_result_is_seen():
    """Nobody waits for the rest of it."""
    results = ahead(sent, [(0,), (1, killed_while_it_sends)], num_workers=1)
    assert next(results)[0] == 0
    time.sleep(1.0)  # the process sends what no pipe holds, and nobody takes it
    with pytest.raises(ProcessLostError, match="SIGKILL"):
        next(results)


def test_whoever_closes_it_waits_for_nobody(monkeypatch):
    """Neither for a process that hangs, which is told of meanwhile, nor for one that has a result left."""
    monkeypatch.setattr(pool, "PATIENCE_S", 0.05)
    said = []

    def say(text):
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    begun = time.monotonic()
    results = ahead(sent, [(0,), (1, functools.partial(time.sleep, 60)), (2,), (3,)], say=say)
    assert next(results)[0] == 0
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert all(re.search("^waiting for a counting process for 0 s: ", text) for text in said)
    assert set(multiprocessing.active_children()) == before and time.monotonic() - begun < 20


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)^in a counting process:\nTraceback.*ZeroDivisionError"):
        next(ahead(divmod, [(1, 0)]))


def test_a_process_that_cannot_begin_is_one_line():
    code = """if True:
        import multiprocessing, resource
        multiprocessing.set_start_method("fork", force=True)  # as where no server of forks began this process
        from tests.test_pool import ahead, sent
        from zennas.records import ProcessLostError
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
        try:
            print(next(ahead(sent, [(0,)], num_workers=8))[0])
        except ProcessLostError as error:
            print(error)
    """
    said = forked(code).stdout
    assert re.fullmatch(
        r"a counting process cannot begin: .*Too many open files; make room, or give --workers 0\n", said
    )


@pytest.mark.parametrize("parts", ["[(0,), (1,), (2, functools.partial(time.sleep, 60)), (3,), (4,)]", "[(0,), (1,)]"])
def test_processes_end_with_a_run_that_is_killed(parts):
    """Those at work, and those that wait for a part."""
    code = f"""if True:
        import functools, multiprocessing, time
        multiprocessing.set_start_method("fork", force=True)  # as where no server of forks began this process
        from tests.test_pool import ahead, sent
        results = ahead(sent, {parts})
        next(results), next(results)
        print(*[process.pid for process in multiprocessing.active_children()], flush=True)
        time.sleep(60)
    """
    run = Forked(code)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    run.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    """Whether a process runs; one that ended and that nobody asked about yet does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
