"""What `zennas search` prints of what it found."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.flags import line, spell, words
from zennas.score.options import Options as ScoreOptions
from zennas.score.show import print_ways
from zennas.search.beside import mirrored_sentence
from zennas.search.options import Options
from zennas.search.stages import Settled, trained_folder

NO_WINNER = 1  # exit code


def show(settled: Settled, options: Options, console: Console) -> int:
    """Print the winners and the commands to type next; 1 where there is no winner."""
    if not settled.winners:
        console.print(
            "no winner: no candidate measured whole kept within the budget; "
            "give more --minutes or --candidates, or look at report.html",
            style="yellow",
        )
        return NO_WINNER
    print_winners(settled, console)
    known = [*settled.winners, *settled.baselines]
    if (mirrored := mirrored_sentence(known)) is not None:
        console.print(f"{mirrored[0].upper()}{mirrored[1:]}.", markup=False, soft_wrap=True)
    if settled.stand_in:
        console.print(settled.stand_in, style="yellow")
    if settled.num_islands > 1:
        console.print(
            f"These are the best of what all islands had measured when island {settled.island} had its finals; the "
            "island that has them last knows of all.",
            style="yellow",
        )
    console.print(
        f"{settled.plan.score.caution}\n\nNext:\n  " + "\n  ".join(_next_commands(settled, options)),
        markup=False,
        soft_wrap=True,
    )
    return 0


def _next_commands(settled: Settled, options: Options) -> list[str]:
    """What to type next, a line each."""
    folder, winner = settled.folder, str(settled.folder / "winner-1.yaml")
    study, password = settled.study.removeprefix("journal:"), "    # the password from ~/.pgpass"
    same = {"track": options.track, "budget_ms": options.budget_ms, "backend": options.backend, "batch": options.batch}
    name = options.score or settled.plan.score.name
    score = None if (name,) == ScoreOptions.model_fields["score"].default else (name,)
    more: dict[str, float] = {"minutes": 2 * settled.plan.minutes}
    if options.candidates:
        more = {"candidates": 2 * options.candidates}
    again = {"track": options.track, "out": settled.out, "then_train": None, "resume": None, "fresh": None}
    train = [*spell(Options, track=options.track), "--winner", winner]
    # A training is judged by the track's own rule: milliseconds of another number of images are none of its.
    of_another = {"batch": None, "budget_ms": None} if options.batch else {}
    train += [*spell(Options, **same | {"track": None, "space": options.space} | of_another)]
    train += ["--out", str(trained_folder(settled.out)), "--data", "DATA"]
    return [
        f"open {folder / 'report.html'}",
        f"optuna-dashboard {study} --artifact-dir {folder / 'artifacts'}{password if settled.needs_password else ''}",
        line("zennas.score", spell(ScoreOptions, files=[winner], score=score, **same, measure=True)),
        line("zennas.search", words(options, **again | more)) + "    # search on",
        line("zennas.train", train) + "    # train the first one",
    ]


def print_winners(settled: Settled, console: Console) -> None:
    """The winners beside the baselines of the same run, as a table for people."""
    table = Table(
        title=f"{settled.experiment}: winners and hand-made baselines, measured in this run",
        title_justify="left",
    )
    has_bands = any(entry.band is not None for entry in settled.winners)
    is_mirrored = any(entry.mirrored is not None for entry in settled.winners)
    table.add_column("network", no_wrap=True)
    if has_bands:
        table.add_column("band", no_wrap=True)
    for name in (
        settled.plan.score.label,
        "below optimum",
        "ms",
        "spread",
        *(["mirrored"] if is_mirrored else []),
        "budget",
        "GMACs",
        "M params",
        "blocks",
        "MB",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in [*settled.winners, *sorted(settled.baselines, key=lambda entry: entry.latency.measured_ms)]:
        latency = entry.latency
        table.add_row(
            Text(entry.name),
            *([entry.band or "-"] if has_bands else []),
            f"{entry.score_mean:.2f} ±{entry.score_std:.2f}",
            entry.gap_text,
            f"{latency.measured_ms:.2f}",
            f"{latency.spread_pct:.1f} %",
            *([f"{entry.mirrored.measured_ms:.2f}" if entry.mirrored else "-"] if is_mirrored else []),
            f"{100 * latency.measured_ms / latency.budget_ms:.1f} %",
            f"{entry.macs / 1e9:.{3 if entry.macs < 20e9 else 2}f}",
            f"{entry.params / 1e6:.{2 if entry.params < 100e6 else 1}f}",
            str(entry.num_blocks),
            f"{entry.megabytes:.0f}",
            style="bold" if entry.role == "winner" else None,
        )
    console.print(table)
    print_ways({entry.name: entry.ways for entry in (*settled.winners, *settled.baselines) if entry.ways}, console)
    for entry in settled.winners:
        console.print(f"{entry.name}  {entry.candidate.text}", markup=False, soft_wrap=True)
