"""What `zennas mask` prints."""

import shlex

from rich.console import Console

from zennas.flags import line, spell
from zennas.mask.options import Options
from zennas.mask.run import PASSED_OVER, REPORT, Masked, WrittenLayout
from zennas.train.options import Options as TrainOptions

NONE_MASKED = 1  # exit code: written, but no image could be masked


def show(result: Masked | WrittenLayout, options: Options, console: Console) -> int:
    """Print what became of the images, and what to type next; 1 where none could be masked."""
    if isinstance(result, WrittenLayout):
        console.print(f"written: {result.layout}", markup=False, soft_wrap=True)
        return 0
    out = options.out
    assert out is not None
    page, train = shlex.join(["open", str(out / REPORT)]), line("zennas.train", spell(TrainOptions, data=out))
    console.print(
        f"masked {result.num_masked:,} of {result.num_images:,} images, passed over {result.num_passed_over:,} "
        f"({out / PASSED_OVER}); {result.num_written:,} written to {out}\nNext:\n  {page}\n  {train} ...",
        markup=False,
        soft_wrap=True,
    )
    if result.num_chosen and not result.num_masked:
        console.print("no image could be masked", style="yellow")
        return NONE_MASKED
    return 0
