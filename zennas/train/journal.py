"""The journal of a training: metrics.jsonl, which the report and a resumed run read, and TensorBoard."""

import json
import pathlib

from zennas.names import text_path
from zennas.run_folder import explaining, write_atomically

METRICS, TENSORBOARD, CORRUPT = "metrics.jsonl", "tensorboard", "corrupt-{rank}.jsonl"
TRAIN = "train"  # kind of the entries that every few steps leave


class Journal:
    """Appends one line of JSON per entry, {"step": ..., "kind": ..., numbers}, and the same numbers to TensorBoard."""

    def __init__(self, folder: pathlib.Path | str, *, first_step: int = 0, again: bool = False):
        """first_step: of the checkpoint that is gone on from. again: the network is judged again at that step, so what
        a stop left of the judging goes."""
        self.path, self._writer = pathlib.Path(folder) / METRICS, None
        # Steps after the last checkpoint are taken again, so their entries go; without a checkpoint, all entries go.
        kept = [entry for entry in read_metrics(folder) if entry["step"] <= first_step] if first_step else []
        if again:
            kept = [entry for entry in kept if entry["step"] < first_step or entry["kind"] == TRAIN]
        write_atomically(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
        from torch.utils.tensorboard import SummaryWriter

        with explaining(pathlib.Path(folder)):
            self._writer = SummaryWriter(text_path(pathlib.Path(folder) / TENSORBOARD), purge_step=first_step + 1)

    def add(self, step: int, kind: str, numbers: dict, **details) -> None:
        """One entry; `numbers` go to TensorBoard too, as kind/name."""
        entry = {"step": step, "kind": kind, **numbers, **details}
        with explaining(self.path.parent), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Write what was added to TensorBoard's file."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_metrics(folder: pathlib.Path | str) -> list[dict]:
    """The entries of metrics.jsonl, in order."""
    return read_lines_of_json(pathlib.Path(folder) / METRICS)


def known_corrupt(folder: pathlib.Path | str) -> set[str]:
    """Where the images lie that a rank noted as corrupt before this run was resumed."""
    return _known(folder, "where")


def known_gone(folder: pathlib.Path | str) -> set[str]:
    """Who a rank noted as gone, because none of their samples can be read, before this run was resumed."""
    return _known(folder, "who")


def _known(folder, what):
    paths = pathlib.Path(folder).glob(CORRUPT.format(rank="*"))
    return {entry[what] for path in paths for entry in read_lines_of_json(path) if what in entry}


def read_lines_of_json(path: pathlib.Path | str) -> list[dict]:
    """The entries of a file of JSON lines, [] where there is none; what a kill or a disk tore is left out."""
    path, entries = pathlib.Path(path), []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
