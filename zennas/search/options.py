"""What a user asks of `zennas search`."""

import pathlib
from typing import Annotated, ClassVar

from zennas.flags import (
    RESUME_OR_FRESH,
    Address,
    Backend,
    Batch,
    BudgetMs,
    CommandOptions,
    Experiment,
    Images,
    Network,
    Space,
    flag,
)

MOST_ISLANDS = 1024


class Options(CommandOptions):
    """Find the best backbones of a space within a track's latency budget, without training any.

    Finds the device, carries the track's budget over to it, searches, measures the best candidates whole, and writes
    winners (YAML, ONNX), winners.json, report.html and the Optuna study to --out. Ctrl-C ends it cleanly; the same
    command with the same --out goes on where it stopped.

    Exit codes: 0 winners found; 1 the run ended without a winner; 2 something given cannot be used; 3 a process
    that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = (
        *RESUME_OR_FRESH,
        ("learn_from", "then_train"),
        ("batch", "then_train"),  # a training is judged by the track's own rule
        ("batch", "learn_from"),
    )
    OUTPUTS: ClassVar[dict[str, str]] = {
        "json": "Print the winners as JSON on standard output; all else on standard error."
    }
    track: Experiment = "webface-sfr"
    out: Annotated[pathlib.Path | None, flag("Folder of the run.", unset="runs/TRACK")] = None
    minutes: Annotated[
        float | None, flag("Wall time of the whole run.", unit="minutes", unset="the experiment's, 5", gt=0)
    ] = None
    candidates: Annotated[
        int | None,
        flag(
            "Stop after so many scored candidates instead of by time (up to 45 % more where finalists correct the "
            "table).",
            ge=1,
        ),
    ] = None
    seed: Annotated[
        int | None, flag("Seed of proposals and scores.", unset="the experiment's, 0", ge=0, le=2**31 - 1)
    ] = None
    workers: Annotated[int | None, flag("Scorers.", unset="one per processor core", ge=1, le=4096)] = None
    budget_ms: BudgetMs = None
    backend: Backend = None
    images: Images = None
    batch: Batch = None
    detector: Annotated[
        pathlib.Path | None, flag("Detector ONNX, measured in place of the track's reserve.", metavar="FILE")
    ] = None
    space: Space = None
    max_mb: Annotated[
        float | None, flag("Most megabytes (2^20) of the file.", unit="MB of 2^20 bytes", unset="the track's", gt=0)
    ] = None
    max_gmacs: Annotated[float | None, flag("Most billions of multiply-accumulates.", unit="10^9", gt=0)] = None
    also: Annotated[
        dict[str, float],
        flag(
            "Keep a second device's budget too: its latency table (see zennas latency --show) and milliseconds there, "
            "as that table predicts them; measured there where a node of the cluster is tagged latency_device:TABLE. "
            "Repeatable.",
            unit="ms",
            metavar="TABLE=MS",
            example="amd-epyc-fam26-mod2-2c=250",
        ),
    ] = {}
    score: Annotated[
        str | None,
        flag(
            "Objective: a row of SCORES, or learned:OUT, what zennas learn left in OUT.",
            unset="the experiment's, zen",
            values="scores",
        ),
    ] = None
    evidence: Annotated[
        bool,
        flag("Ask other scores about winners and baselines, for the report; without it none is asked."),
    ] = False
    storage: Annotated[
        str | None,
        flag(
            "Where the study is kept: postgresql://USER@HOST/DATABASE, grpc://HOST:PORT, journal:FILE, or @FILE that "
            "holds the URL. No passwords here: they go into @FILE or $ZENNAS_STORAGE.",
            unset="sqlite:///OUT/study.db",
        ),
    ] = None
    table: Annotated[
        str | None,
        flag("Where the scored candidates go: a folder or a URL of fsspec.", unset="OUT/scored.parquet"),
    ] = None
    islands: Annotated[
        int,
        flag("How many drivers share the study: give the same command so many times, anywhere.", ge=1, le=MOST_ISLANDS),
    ] = 1
    address: Address = None
    device: Annotated[
        str | None,
        flag(
            "Measure on nodes of the cluster tagged latency_device:NAME.",
            metavar="NAME",
            unset="those tagged latency_device",
        ),
    ] = None
    then_train: Annotated[
        pathlib.Path | None,
        flag(
            "Then train the best winner on these faces, into OUT-trained: zennas run with its options.",
            metavar="DATA",
            unset="search alone",
        ),
    ] = None
    learn_from: Annotated[
        pathlib.Path | None,
        flag(
            "First learn from a few trainings on these faces which networks are the better ones, search by that, train "
            "all winners, crown the one that measures best: zennas run --learn with its options.",
            metavar="DATA",
            unset="Zen-Score, nothing trained",
        ),
    ] = None
    teacher: Annotated[
        Network,
        flag("Teacher of the trainings of --learn-from and --then-train: FILE[,normalise=...][,px=...].", unset="none"),
    ] = None
    resume: Annotated[bool, flag("Go on with a run; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move a run that is there aside and begin anew.")] = False

    def room(self) -> str:
        """That of `zennas run` where trainings belong to it."""
        return "zennas.search" if self.then_train is None and self.learn_from is None else "zennas.run"
