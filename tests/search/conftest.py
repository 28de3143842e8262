"""A search as a user starts it, one finished run that the slow tests share, and rows and entries made by hand."""

import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

import filelock
import pytest
import yaml

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK, Ended, small_ms
from tests.processes import MODULE, Forked
from tests.search.hosts import Cluster, without_loopback
from tests.search.servers import Postgres, find
from zennas.provenance import provenance
from zennas.search.measured import Measured
from zennas.search.scored import Row
from zennas.space.cost import cost
from zennas.track import Protocol, ScorePlan, load_experiment

collect_ignore = ["faulty"]  # a sitecustomize for Ray's workers alone
TIMES_SMALL = 2.3  # the budget of the finished run over what IR-SE-small takes: about half of the tiny space keeps it
CANDIDATES = 60


def write_tiny(folder, **search):
    """The path of the tiny experiment written into a folder, its search plan changed where that is said."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.yaml" for name in ("space", "track", "experiment")}
    paths["space"].write_text(textwrap.dedent(TINY_SPACE))
    paths["track"].write_text(textwrap.dedent(TINY_TRACK))
    experiment = yaml.safe_load(TINY_EXPERIMENT) | {"space": str(paths["space"]), "track": str(paths["track"])}
    experiment["search"] = experiment["search"] | search
    paths["experiment"].write_text(yaml.safe_dump(experiment))
    return paths["experiment"]


class Command:
    """A command of zennas under way, in a process group of its own, as a shell gives it one.

    inside: the words of a command that runs another one somewhere, such as a network namespace. anew: by an interpreter
    of its own, as a user starts it, which takes three seconds longer.
    """

    def __init__(self, room, *arguments, cwd, checkout, inside=(), anew=False):
        environment = without_loopback(os.environ) | {
            "PYTHONPATH": str(checkout),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
        }
        if not inside and not anew:
            self.process = Forked(MODULE, f"zennas.{room}", *arguments, cwd=cwd, env=environment, own_group=True)
            return
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", f"zennas.{room}", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self, timeout_s=150):
        """Ended, waiting for it."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return Ended(self.process.returncode, stdout, stderr)

    def until(self, happened, timeout_s=90):
        """Wait until happened() is true; the command must still be running then."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def press_ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)  # a terminal sends it to the whole group, Ray's processes included

    def kill(self):
        self.process.kill()


@pytest.fixture(scope="session")
def start(checkout, tmp_path_factory):
    """start(room, *arguments) -> Command; whatever still runs at the end is killed."""
    commands = []

    def started(room, *arguments, cwd=None, **how):
        cwd = cwd or tmp_path_factory.mktemp("elsewhere")
        commands.append(Command(room, *arguments, cwd=cwd, checkout=checkout, **how))
        return commands[-1]

    yield started
    for command in commands:
        if command.process.poll() is None:
            command.kill()


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL of this session's own. It is a part of .ci/run's machine; elsewhere its tests are left out."""
    if find("initdb") is None:
        pytest.skip("PostgreSQL's server is not installed")
    server = Postgres()
    yield server
    server.remove()


_databases = itertools.count()


@pytest.fixture
def database(postgres):
    """The URL of an empty database, password included."""
    return postgres.create(f"test{next(_databases)}")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Cluster; all of its nodes are killed at the end."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = Cluster(tmp_path)
    yield made
    for node in reversed(made.nodes):
        node.kill()


class SmallDisk:
    """A disk of its own, of a few megabytes, that can be given more."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path]
        if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk, and not in every container")

    def resize(self, megabytes):
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", self.path], check=True)

    def remove(self):
        subprocess.run(["umount", "--lazy", self.path], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A SmallDisk of one megabyte."""
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.remove()


class FinishedRun(NamedTuple):
    """The tiny search after its end."""

    experiment: object  # path
    out: object  # path
    arguments: list
    ended: Ended
    budget_ms: float


@pytest.fixture(scope="session")
def finished(start, tmp_path_factory, own_cache):
    """A whole search of the tiny experiment, ended well: made by one worker, whose latency cache the others take
    over.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "finished"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "ended").is_file():
            # Six finalists at 25 % under the budget: one of them keeps it even while something else is running. Where a
            # machine shares its cores with others, none may: the search is then made anew.
            experiment, out = write_tiny(folder / "tiny", max_finalists=6, margin_pct=25), folder / "run"
            budget_ms = round(TIMES_SMALL * small_ms(), 2)
            arguments = ["--track", experiment, "--out", out, "--candidates", CANDIDATES, "--budget-ms", budget_ms]
            for _ in range(3):
                shutil.rmtree(out, ignore_errors=True)
                shutil.rmtree(own_cache, ignore_errors=True)
                run = FinishedRun(experiment, out, arguments, start("search", *arguments, anew=True).end(), budget_ms)
                if "measured whole kept within the budget" not in run.ended.said:
                    break
            assert run.ended.code == 0, run.ended.said
            shutil.copytree(own_cache, folder / "cache")
            (folder / "ended").write_bytes(pickle.dumps(run))
    shutil.copytree(folder / "cache", own_cache, dirs_exist_ok=True)
    return pickle.loads((folder / "ended").read_bytes())


@pytest.fixture
def space(tiny):
    return load_experiment(str(tiny))[2]


@pytest.fixture
def make_row(space):
    """make_row(candidate, **changes) -> a Row of the ledger."""

    def made(candidate, *, batch=0, score=1.0, predicted_ms=1.0, **changes):
        spent = cost(candidate, space.shape)
        row = Row(
            batch,
            candidate.key,
            candidate.text,
            candidate.block,
            candidate.stem,
            candidate.widths,
            candidate.depths,
            score,
            0.0,
            0.01,
            predicted_ms,
            spent.params,
            spent.macs,
            candidate.num_blocks,
            0.5,
            None,
            None,
        )
        return row._replace(**changes)

    return made


def measured_entry(
    candidate, space, *, role="finalist", name=None, ms=1.0, score=1.0, budget_ms=2.0, stand_in=None, **changes
):
    """A Measured of a candidate, as winners.measure_whole makes it."""
    spent = cost(candidate, space.shape)
    made_by = provenance(seed=0).model_dump()
    latency = {
        "measured_ms": ms,
        "median_ms": ms,
        "spread_pct": 1.0,
        "budget_ms": budget_ms,
        "within_budget": ms <= budget_ms,
        "stand_in": stand_in,
        "warning": None,
        "raw_ms": [ms],
        "protocol": Protocol(backend="onnxruntime-cpu", num_runs=1, kth_fastest=1).model_dump(),
        "machine": made_by["machine"],
        "date": made_by["date"],
        "versions": made_by["versions"],
        "load_average": 0.5,
        "predicted_ms": ms,
        "table_ms": ms,
    }
    entry = {
        "role": role,
        "name": name or candidate.key,
        "key": candidate.key,
        "candidate": candidate.plain(),
        "score": ScorePlan().model_dump(),
        "score_mean": score,
        "score_std": 0.1,
        "params": spent.params,
        "macs": spent.macs,
        "num_blocks": candidate.num_blocks,
        "megabytes": 1.0,
        "latency": latency,
        "elsewhere": {},
        "export": {"max_abs_difference": 0.0, "max_abs_output": 1.0, "min_cosine": 1.0, "checker": []},
        "onnx": None,
        "verdict": None,
        "made_by": made_by,
    }
    return Measured.parse(entry, entry["name"]).changed(**changes)


@pytest.fixture
def make_entry(space):
    """make_entry(candidate, **changes) -> Measured, as winners.measure_whole makes it."""
    return lambda candidate, **changes: measured_entry(candidate, space, **changes)
