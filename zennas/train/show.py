"""What `zennas train` prints."""

import shlex
from typing import Any

from rich.console import Console

from zennas.latency.protocol import ms_text
from zennas.tasks.table import task_of
from zennas.train.options import Options
from zennas.train.request import Request
from zennas.train.run import TrainedNetwork

REFUSED = 1  # exit code: trained, but over the budget or refused by the checker


def show(trained: TrainedNetwork, options: Options, console: Console) -> int:
    """Print the trained network and the commands to type next; 1 where it is refused."""
    if trained.result is None:
        return 0
    request = trained.request
    print_result(trained.result, request, console)
    commands_next = (
        ["tensorboard", "--logdir", str(request.out / "tensorboard")],
        *task_of(request.task).next_commands(request, request.verify),
    )
    console.print(
        f"\nNext:\n  open {request.out / 'report.html'}\n  " + "\n  ".join(map(shlex.join, commands_next)),
        markup=False,
        soft_wrap=True,
    )
    return 0 if trained.accepted else REFUSED


def print_result(result: dict[str, Any], request: Request, console: Console) -> None:
    """The trained network on the terminal: accuracy where it was verified, latency against the budget."""
    latency, training = result["latency"], result["training"]
    if (table := task_of(request.task).page.table(result)) is not None:
        console.print(table)
    within = "within" if latency["within_budget"] else "OVER"
    change = 100 * (latency["measured_ms"] / latency["untrained_ms"] - 1)
    lines = [
        f"trained  {training['steps']:,} steps in {training['seconds']:.0f} s, {training['images_per_s']:.0f} "
        f"images/s, "
        f"{training['skipped_steps']} skipped, {training['corrupt_images']} corrupt images"
        + (f", {training['gone']:,} left without one that can be read: others stood in" if "gone" in training else ""),
        f"latency  {ms_text(latency['measured_ms'])} of {ms_text(latency['budget_ms'])}, {within} the budget; "
        f"untrained weights: {ms_text(latency['untrained_ms'])} ({change:+.1f} %)",
        f"   file  {request.out / result['onnx']}, {result['megabytes']:.1f} MB",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    for problem in (latency["warning"], latency["stand_in"], *result["export"]["checker"]):
        if problem:
            console.print(problem, style="yellow", markup=False, soft_wrap=True)
