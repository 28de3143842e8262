"""A training on the terminal: launched, its result told, its exit code."""

import os
import shlex
import sys

from zennas import commands
from zennas.progress import Progress, silent
from zennas.ranks import EveryRankError
from zennas.records import UserError
from zennas.tasks.table import task_of
from zennas.train.launch import is_first_process
from zennas.train.run import run

REFUSED = 1  # exit code: trained, but over the budget or refused by the checker


def train_and_tell(options, console, *, num_ray_workers=None, address=None):
    """(result or None on every rank but the first, exit code) of a training."""
    speaks = is_first_process()
    progress = Progress(console) if speaks else silent()
    try:
        result = run(options, progress=progress, num_ray_workers=num_ray_workers, address=address)
    except KeyboardInterrupt:
        progress.end()
        progress.say(f"stopped; checkpoints are kept in {options.out}: give the same command again to go on")
        raise
    except EveryRankError:
        if not speaks:  # the first rank says it
            sys.exit(commands.WRONG_INPUT)
        raise
    except UserError as error:
        raise UserError(str(error) if speaks else f"rank {os.environ['RANK']}: {error}") from None
    finally:
        progress.close()
    if result is None:
        return None, 0
    print_result(result, options, console)
    refused = result["export"]["checker"] or not (result["latency"]["within_budget"] or options.any_size)
    commands_next = (
        ["tensorboard", "--logdir", str(options.out / "tensorboard")],
        *task_of(options.task).next_commands(options),
    )
    console.print(
        f"\nNext:\n  open {options.out / 'report.html'}\n  " + "\n  ".join(map(shlex.join, commands_next)),
        markup=False,
        soft_wrap=True,
    )
    return result, REFUSED if refused else 0


def print_result(result, options, console):
    """The trained network on the terminal: accuracy where it was verified, latency against the budget."""
    latency, training = result["latency"], result["training"]
    if (table := task_of(options.task).page.table(result)) is not None:
        console.print(table)
    within = "within" if latency["within_budget"] else "OVER"
    change = 100 * (latency["measured_ms"] / latency["untrained_ms"] - 1)
    lines = [
        f"trained  {training['steps']:,} steps in {training['seconds']:.0f} s, {training['images_per_s']:.0f} "
        f"images/s, "
        f"{training['skipped_steps']} skipped, {training['corrupt_images']} corrupt images",
        f"latency  {latency['measured_ms']:.2f} ms of {latency['budget_ms']:.2f} ms, {within} the budget; untrained "
        f"weights: "
        f"{latency['untrained_ms']:.2f} ms ({change:+.1f} %)",
        f"   file  {options.out / result['onnx']}, {result['megabytes']:.1f} MB",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    for problem in (latency["warning"], latency["stand_in"], *result["export"]["checker"]):
        if problem:
            console.print(problem, style="yellow", markup=False, soft_wrap=True)
