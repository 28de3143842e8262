"""What `zennas run` prints in the end: nothing more, the search and the training have said all."""

from rich.console import Console

from zennas.run.options import Options
from zennas.run.run import Trained


def show(trained: Trained, options: Options, console: Console) -> int:
    """The exit code: 1 without a winner, and where the trained network is refused."""
    return trained.code
