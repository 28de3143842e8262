"""What `zennas align` prints."""

import shlex

from rich.console import Console

from zennas.align.options import Options
from zennas.align.run import PASSED_OVER, REPORT, Aligned
from zennas.clean.options import Options as CleanOptions
from zennas.evaluate.options import Options as EvaluateOptions
from zennas.flags import line, spell
from zennas.train.options import Options as TrainOptions

NO_FACE = 1  # exit code: no face was found


def show(result: Aligned, options: Options, console: Console) -> int:
    """Print what became of the photographs, and what to type next; 1 where no face was found."""
    out, num_faces = options.out, result.num_accepted + result.num_doubtful
    console.print(
        f"{result.num_photographs:,} photographs: {result.num_accepted:,} faces accepted, {result.num_doubtful:,} "
        f"doubtful, {result.num_refused:,} refused ({out / PASSED_OVER}); {result.num_written:,} written to {out}",
        markup=False,
        soft_wrap=True,
    )
    for why, num in result.whys.items():
        console.print(f"  {num:>9,}  {why}", markup=False, highlight=False)
    if not num_faces:
        console.print("no face was found", style="yellow")
        return NO_FACE
    following = [shlex.join(["open", str(out / REPORT)])]
    if not result.is_flat:
        following.append(line("zennas.clean", [*spell(CleanOptions, data=out), "--embeddings-from", "MODEL"]) + " ...")
        following.append(line("zennas.train", spell(TrainOptions, data=out)) + " ...")
    if result.format != "recordio":
        following.append(line("zennas.evaluate", spell(EvaluateOptions, set=(f"PAIRS@{out}",))) + " --model MODEL")
    console.print("Next:\n  " + "\n  ".join(following), markup=False, soft_wrap=True)
    return 0
