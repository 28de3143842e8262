"""What `zennas export` prints."""

import shlex

from rich.console import Console

from zennas.export.options import Options
from zennas.export.run import Exported
from zennas.records import some


def show(exported: Exported, options: Options, console: Console) -> int:
    """Print what the network is, its latency beside the budget, the files, and the commands to go on with."""
    for name, text in _lines(exported).items():
        console.print(f"{name:>10}  {text}", markup=False, highlight=False, soft_wrap=True)
    latency = exported.latency
    warnings = [f"track {exported.track} would refuse it: {problem}" for problem in exported.checker]
    for warning in [*warnings, *filter(None, [latency and latency.warning, latency and latency.stand_in])]:
        console.print(warning, style="yellow", markup=False, soft_wrap=True)
    console.print("\nNext:\n  " + "\n  ".join(map(shlex.join, exported.next)), markup=False, soft_wrap=True)
    return 0


def _lines(exported: Exported) -> dict[str, str]:
    place = f", under {exported.place}" if exported.place else ""
    aside = {"left aside": f"{len(exported.left_aside)}: {some(exported.left_aside)}"} if exported.left_aside else {}
    colours = "RGB" if exported.image[0] == 3 else "grey"
    return {
        "weights": f"{exported.model}: {exported.read_as}{place}",
        **aside,
        "network": exported.text,
        "size": f"{exported.params / 1e6:.1f} M parameters, {exported.macs / 1e9:.2f} GMACs, "
        f"{exported.megabytes:.1f} MB, {exported.num_blocks} blocks",
        "takes": " x ".join(map(str, exported.image)) + f", {colours}, as (x - 127.5) / 127.5",
        "gives": f"{exported.embedding_size} numbers",
        "proof": f"ONNX answers as PyTorch does, to {exported.proof.relative:.1e} of the largest number",
        "latency": _latency(exported),
        **exported.files,
    }


def _latency(exported: Exported) -> str:
    latency = exported.latency
    if latency is None:
        return "not measured (--no-latency)"
    within = "within" if latency.within_budget else "OVER"
    return f"{latency.measured_ms:.2f} ms of {latency.budget_ms:.2f} ms, {within} the budget: {exported.budget_origin}"
