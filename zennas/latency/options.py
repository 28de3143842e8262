"""What a user asks of `zennas latency`."""

import pathlib
from typing import Annotated

from zennas.flags import Backend, Batch, CommandOptions, Experiment, Images, Space, flag


class Options(CommandOptions):
    """Measure ONNX files or candidates by a track's own rule on this machine, and look after tables of block
    latencies.

    \b
    zennas latency                      the track's reference network, measured again and kept
    zennas latency FILE...              ONNX files (*.onnx), files of candidates (YAML, JSON lines)
    zennas latency --table              fill this machine's table for the track's space
    zennas latency --show               the tables known here: this machine's, shipped, imported
    zennas latency --show TABLE         what is in one, stage by stage
    zennas latency --compare ONE OTHER  how well one device stands in for another
    zennas latency --import FILE.csv    bring a table here that another machine filled
    zennas latency --predicted          the table's predictions against whole networks, as a page

    TABLE is MACHINE, MACHINE/RULE or MACHINE/RULE@VERSION as --show lists them, any part that only one has, or the path
    of a .csv. Every measurement is the whole record: raw times, spread, machine, versions (--json).

    Exit codes: 0 done; 2 something given cannot be used; 3 a process that it began died, or could not begin (what
    was done is kept); 130 stopped by Ctrl-C (what was measured is kept, and not measured again).
    """

    what: Annotated[
        tuple[str, ...],
        flag("Files to measure; or tables to show, compare, import.", metavar="[FILE|TABLE]...", positional=True),
    ] = ()
    track: Annotated[Experiment, flag("Track (experiment) whose rule and space apply.")] = "webface-sfr"
    space: Space = None
    backend: Backend = None
    images: Images = None
    batch: Batch = None
    table: Annotated[bool, flag("Fill the table of block latencies of the space.")] = False
    show: Annotated[bool, flag("Show all tables, or the one that is named.")] = False
    compare: Annotated[bool, flag("Compare two tables, over the space's candidates too.")] = False
    import_: Annotated[bool, flag("Import a table that another machine filled.")] = False
    predicted: Annotated[bool, flag("Compare predictions with the whole networks that are kept, on a page.")] = False
    machine: Annotated[str | None, flag("With --import: what the other machine is called here.")] = None
    measure: Annotated[int | None, flag("With --predicted: first measure so many candidates whole.", ge=1)] = None
    out: Annotated[pathlib.Path | None, flag("With --predicted: the page.", unset="runs/EXPERIMENT-latency.html")] = (
        None
    )
    folder: Annotated[pathlib.Path | None, flag("Where --table keeps it.", unset="$ZENNAS_CACHE/measured/MACHINE")] = (
        None
    )
