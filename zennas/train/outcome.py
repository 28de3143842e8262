"""A training as a command runs it: launched, told on the terminal, its exit code."""

import os
import shlex
import sys

from rich.table import Table

from zennas import commands
from zennas.progress import Progress
from zennas.ranks import EveryRankError
from zennas.records import UserError
from zennas.train.launch import is_first_process, launch, silent

REFUSED = 1  # exit code: trained, but over the budget or refused by the checker


def train_and_tell(options, console, *, num_ray_workers=None, address=None):
    """(result or None on every rank but the first, exit code) of a training."""
    speaks = is_first_process()
    progress = Progress(console) if speaks else silent()
    try:
        result = launch(options, progress, num_ray_workers=num_ray_workers, address=address)
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
    trained, track = str(options.out), ("--track", options.asked_track)
    # What a track of whole systems asks for beside the network.
    needed = ("--detector", "YUNET.onnx", "--images", "PHOTOGRAPHS") if options.track.budget.of_a_system else ()
    commands_next = (
        ["tensorboard", "--logdir", str(options.out / "tensorboard")],
        ["python", "-m", "zennas.evaluate", "--model", trained, "--set", "lfw.bin", *track],
        ["python", "-m", "zennas.submit", *track, "--model", trained, *needed],
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
    if result["accuracy"]:
        table = Table(title=f"{result['experiment']}: accuracy, per cent of pairs", title_justify="left")
        for name in ("set", "untrained", "student", "teacher", "TAR@FAR 1e-3"):
            table.add_column(name, justify="left" if name == "set" else "right")
        for name, row in result["accuracy"].items():
            student, teacher = row["student"], row["teacher"]
            table.add_row(
                name,
                f"{100 * row['untrained']:.2f}" if row["untrained"] is not None else "",
                f"{100 * student['accuracy']:.2f} ± {100 * student['accuracy_std']:.2f}",
                f"{100 * teacher['accuracy']:.2f}" if teacher else "",
                f"{100 * student['tar']:.2f}" if student["tar"] is not None else "",
            )
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
