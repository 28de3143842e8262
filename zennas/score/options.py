"""What a user asks of `zennas score`."""

from typing import Annotated, ClassVar, Self

from zennas.flags import Backend, Batch, BudgetMs, CommandOptions, Experiment, Images, flag


class Options(CommandOptions):
    """Score candidates: Zen-Score (or others), parameters, MACs, blocks, predicted and measured latency against a
    budget. The prediction is the table's own sum; a search corrects it by what it measures whole.

    Candidates are YAML (one, or a list) or JSON lines, such as {block: ir_se, stem: 64, widths: [64, 128, 256, 512],
    depths: [3, 13, 30, 3]}, from files or standard input ('-').

    Exit codes: 0 all scored; 1 at least one candidate failed (its row says how); 2 something given cannot be used;
    3 a process that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    OUTPUTS: ClassVar[dict[str, str]] = {
        "csv": "A CSV table on standard output.",
        "json": "A JSON list on standard output, in the order given.",
    }
    files: Annotated[tuple[str, ...], flag("Files of candidates; '-' is standard input.", positional=True)] = ()
    baselines: Annotated[bool, flag("The hand-made networks of the track's space.")] = False
    score: Annotated[
        tuple[str, ...],
        flag("Scores: with commas between, or repeated.", separator=",", values="scores", metavar="NAME[,NAME]..."),
    ] = ("zen",)
    track: Annotated[Experiment, flag("Track (experiment) whose budget, rule and space apply.")] = "webface-sfr"
    budget_ms: BudgetMs = None
    backend: Backend = None
    images: Images = None
    batch: Batch = None
    measure: Annotated[bool, flag("Measure each candidate whole, from its exported ONNX file.")] = False
    latency: Annotated[bool, flag("Predict latency (fills this machine's table once).")] = True
    repeats: Annotated[int, flag("Scores averaged per candidate.", ge=1)] = 8
    seed: Annotated[int, flag("Seed of the random inputs and weights.", ge=0)] = 0

    def as_typed(self) -> Self:
        """On the command line, a filter: without files and baselines it reads standard input."""
        return self if self.files or self.baselines else self.model_copy(update={"files": ("-",)})
