"""The work of `zennas train`: a plain function that a script can call."""

from zennas.progress import Progress, silent
from zennas.tasks.table import task_of
from zennas.train import prepare
from zennas.train.launch import launch
from zennas.train.options import Options


def check(options: Options) -> None:
    """UserError where these Options cannot be trained; nothing is opened and nothing is written."""
    task_of(options.task).check_plan(options.plan, options.name)
    prepare.check_fit(options)


def run(
    options: Options,
    *,
    progress: Progress | None = None,
    num_ray_workers: int | None = None,
    address: str | None = None,
) -> dict | None:
    """Train, export and measure: the result as result.json holds it, or None on every rank but the first.

    num_ray_workers: so many ranks on the Ray cluster at `address` (None: a private one on this machine).
    """
    check(options)
    return launch(options, progress or silent(), num_ray_workers=num_ray_workers, address=address)
