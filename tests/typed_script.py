"""A script as a user writes it: `make lint` checks its types against the public API. Nobody runs it."""

import pathlib

import zennas
from zennas.progress import Progress


def best_score(folder: pathlib.Path) -> float:
    """The highest Zen-Score of the candidates in a folder."""
    scores = zennas.score(
        files=[str(path) for path in folder.glob("*.yaml")], score=["zen"], latency=False, progress=Progress()
    )
    return max(row.scores["zen"] or 0.0 for row in scores.rows)


def masked(data: pathlib.Path, out: str) -> int:
    """How many images were masked."""
    made = zennas.mask(data=data, out=out, ratio=0.5, knob={"angle_deg": 8})
    return made.num_masked if not hasattr(made, "layout") else 0


def is_accepted(model: pathlib.Path) -> bool:
    """Whether the challenge would accept a network."""
    return zennas.submit(track="insightface-ms1m", model=model).submission.accepted


def accuracy(model: str) -> list[str]:
    """What failed of an evaluation."""
    return [failure.error for failure in zennas.evaluate(model=[model], set=["lfw.bin"], device="cpu").failures]


def trained_ms(data: pathlib.Path) -> float | None:
    """Search, train the best winner with a teacher, and say how fast it is."""
    found = zennas.search(track="lfw-smoke", minutes=1, also={"a-table": 3.5}, out="runs/mine")
    network = zennas.train(
        data=data,
        track="lfw-smoke",
        winner=found.folder / "winner-1.yaml",
        teacher="teacher.onnx,normalise=imagenet",
        set={"optimizer.lr": 0.05},
    )
    return network.measured_ms if network.onnx.is_file() and network.accepted else None
