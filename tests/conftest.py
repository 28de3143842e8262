"""What the tests share: a space small enough to search in seconds, and a latency cache of their own."""

import contextlib
import fcntl
import gc
import itertools
import pathlib
import shutil
import tempfile
import textwrap
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import yaml

# The same examples in every run, no database in the working folder, no clock: a failure is the code's, not the
# machine's.
hypothesis.settings.register_profile("zennas", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("zennas")

TINY_SPACE = """
    name: tiny
    block: ir_se
    image_px: 32
    embedding_size: 64
    stem: {low: 8, high: 32, step: 8}
    widths:
      - {low: 8, high: 32, step: 8}
      - {low: 16, high: 64, step: 8}
    depths:
      - {low: 1, high: 4}
      - {low: 1, high: 6}
    limits: {max_blocks: 9, max_effectiveness: 0.5}
    baselines:
      IR-SE-small: {block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}
      "IR [2,3]": {block: ir, stem: 16, widths: [16, 32], depths: [2, 3]}
"""
TINY_TRACK = """
    name: tiny
    title: a track for the tests
    budget:
      total_ms: 30
      detection_ms: 2
      alignment_ms: 1
      reference:
        machine: a slow machine
        candidate: {block: ir, stem: 32, widths: [32, 64], depths: [2, 2]}
        latency_ms: 20
    protocol: {backend: onnxruntime-cpu, num_runs: 10, kth_fastest: 2}
    limits: {max_embedding_size: 64, max_mb: 10}
    metric: none
    sources: [the tests]
"""
TINY_EXPERIMENT = """
    name: tiny
    space: SPACE
    track: TRACK
    search: {minutes: 0.2, population: 16, batch_size: 4, num_winners: 2, max_finalists: 3, table_runs: 3,
             score: {image_px: 16, batch: 2, repeats: 1, final_repeats: 2},
             evidence: {names: [equal_cost, effectiveness], image_px: 16, rank_by: null}}
"""

MAY_REPEAT = ("--set", "--verify", "--model", "--knob", "--only")


def all_genes(space):
    """genes_NG of all that the ranges of a (small) space hold, whether or not it keeps the limits."""
    return np.array(list(itertools.product(*(span.values() for span in space.genes.values()))))


# --- the speed of the whole: see tests/README.md ---------------------------------------------------------------------

ALONE = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish():
    """Whatever imports and collection made stays, so no later collection of garbage looks at it.

    Each took 0.15 s; while one stood before and behind every latency, that was a fifth of the whole suite.
    """
    gc.collect()
    gc.freeze()


class Alone:
    """Two locks between the workers of one run: tests hold `room` together, a test that is marked `alone` by itself.

    Whoever wants the room passes `door` first, and whoever wants it alone waits in the door: the next test of another
    worker begins behind it.
    """

    def __init__(self, run):
        self.paths = [pathlib.Path(tempfile.gettempdir()) / f"zennas-tests-{run}-{name}" for name in ("door", "room")]
        self.door, self.room = (path.open("w") for path in self.paths)

    @contextlib.contextmanager
    def entered(self, *, alone):
        fcntl.flock(self.door, fcntl.LOCK_EX)
        fcntl.flock(self.room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self.door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_UN)

    def remove(self):
        for path in self.paths:
            path.unlink(missing_ok=True)


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        config.stash[ALONE] = Alone(config.workerinput["testrunuid"])


def pytest_unconfigure(config):
    if ALONE in config.stash:
        config.stash[ALONE].remove()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    locks = item.config.stash.get(ALONE, None)
    alone = item.get_closest_marker("alone") is not None
    with locks.entered(alone=alone) if locks else contextlib.nullcontext():
        return (yield)


# --- what the tests share --------------------------------------------------------------------------------------------


def with_more(words, more):
    """The words of a command and more of them: an option among these takes the place of the same one before."""
    asked = {word for word in map(str, more) if word.startswith("--") and word not in MAY_REPEAT}
    kept, words = [], list(words)
    while words:
        word = words.pop(0)
        if str(word) not in asked:
            kept.append(word)
        elif words and not str(words[0]).startswith("--"):
            words.pop(0)
    return [*kept, *more]


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def said(self):
        return self.stdout + self.stderr


@pytest.fixture
def tiny(tmp_path):
    """The path of an experiment over the tiny space and track, in a folder of its own."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, text in (("space", TINY_SPACE), ("track", TINY_TRACK), ("experiment", TINY_EXPERIMENT)):
        text = (
            textwrap.dedent(text)
            .replace("SPACE", str(folder / "space.yaml"))
            .replace("TRACK", str(folder / "track.yaml"))
        )
        (folder / f"{name}.yaml").write_text(text)
    return folder / "experiment.yaml"


def small_ms():
    """What IR-SE-small of the tiny space takes on this machine now, by the rule of the tiny track."""
    from zennas.latency.budget import export_candidate
    from zennas.latency.protocol import measure_calmly
    from zennas.space.space import Space
    from zennas.track import Protocol

    space = Space.parse(yaml.safe_load(TINY_SPACE), "the tests")
    protocol = Protocol(backend="onnxruntime-cpu", num_runs=10, kth_fastest=2)
    exported = export_candidate(space.baselines["IR-SE-small"], space.shape, protocol)
    return measure_calmly(exported.onnx_bytes, protocol).measured_ms


@pytest.fixture
def ended(capsys):
    """ended(main, *words) -> (exit code, standard output, standard error) of a command."""

    def run(main, *words):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        output = capsys.readouterr()
        return stopped.value.code, output.out, output.err

    return run


@pytest.fixture
def ended_cleanly(ended):
    """ended_cleanly(main, *words, code) -> (standard output, standard error) of a command that ends with this exit
    code: without a traceback, and with one line of what was wrong where that is 2.
    """

    def run(main, *words, code):
        got, out, err = ended(main, *words)
        assert got == code and "Traceback" not in out + err, (got, out, err)
        if code == 2:
            assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
        return out, err

    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The folder in which what the tests measure is kept for the session, and nowhere else."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZENNAS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def checkout():
    """The root of the repository."""
    return pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def chromium():
    """A real headless Chromium that reaches nothing but this machine."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    flags = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update"
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*flags.split(), "--disable-sync"])
        yield browser
        browser.close()
