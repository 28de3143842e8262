"""What `zennas mask` prints."""

from rich.console import Console

from zennas.mask.options import Options
from zennas.mask.run import PASSED_OVER, REPORT, Layout, Masked

NONE_MASKED = 1  # exit code: written, but no image could be masked


def show(result: Masked | Layout, options: Options, console: Console) -> int:
    """Print what became of the images; 1 where none could be masked."""
    if isinstance(result, Layout):
        console.print(f"written: {result.layout}", markup=False, soft_wrap=True)
        return 0
    out = options.out
    assert out is not None
    console.print(
        f"masked {result.num_masked:,} of {result.num_images:,} images, passed over {result.num_passed_over:,} "
        f"({out / PASSED_OVER}); {result.num_written:,} written to {out}\n"
        f"Next:\n  open {out / REPORT}\n  python -m zennas.train --data {out} ...",
        markup=False,
        soft_wrap=True,
    )
    if result.num_chosen and not result.num_masked:
        console.print("no image could be masked", style="yellow")
        return NONE_MASKED
    return 0
