"""The command `search`: python -m zennas.search --track webface-sfr, the same as: zennas search --track webface-sfr."""

import json
import pathlib
import shlex
from typing import Annotated

import typer

from zennas import commands
from zennas.ray_address import keep_ray_on_loopback

MOST_ISLANDS = 1024

HELP = """Find the best backbones of a space within a track's latency budget, without training any.

Finds the device, carries the track's budget over to it, searches, measures the best candidates whole, and writes
winners (YAML, ONNX), winners.json, report.html and the Optuna study to --out. Ctrl-C ends it cleanly; the same
command with the same --out goes on where it stopped.

Exit codes: 0 winners found; 1 the run ended without a winner; 2 something given cannot be used; 130 stopped by
Ctrl-C.
"""


def search(
    track: Annotated[str, typer.Option(help="Experiment: a name under experiments/, or a path.")] = "webface-sfr",
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the run. [default: runs/TRACK]")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall time of the whole run. [default: the experiment's, 5]")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many scored candidates instead of by time (up to 45 % more where finalists correct "
            "the table)."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of proposals and scores. [default: the experiment's, 0]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Scorers. [default: one per processor core]")] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Budget in milliseconds of this machine, unscaled.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    detector: Annotated[
        pathlib.Path | None, typer.Option(help="Detector ONNX, measured in place of the track's reserve.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search space: a name or path. [default: the experiment's]")] = None,
    max_mb: Annotated[
        float | None, typer.Option(help="Most megabytes (2^20) of the file. [default: the track's]")
    ] = None,
    max_gmacs: Annotated[float | None, typer.Option(help="Most billions of multiply-accumulates.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE=MS",
            help="Keep a second device's budget too: its latency table (see zennas latency --show) and milliseconds "
            "there, "
            "as that table predicts them; measured there where a node of the cluster is tagged latency_device:TABLE. "
            "Repeatable.",
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Objective: a row of SCORES. [default: the experiment's, zen]")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Where the study is kept: postgresql://USER@HOST/DATABASE, grpc://HOST:PORT, journal:FILE, or @FILE "
            "that holds "
            "the URL. No passwords here: they go into @FILE or $ZENNAS_STORAGE. [default: sqlite:///OUT/study.db]"
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(help="Where the scored candidates go: a folder or a URL of fsspec. [default: OUT/scored.parquet]"),
    ] = None,
    islands: Annotated[
        int, typer.Option(help="How many drivers share the study: give the same command so many times, anywhere.")
    ] = 1,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster ('auto' inside one). [default: a private local Ray]")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure on nodes of the cluster tagged latency_device:NAME. [default: those tagged latency_device]",
        ),
    ] = None,
    then_train: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="DATA",
            help="Then train the best winner on these faces, into OUT-trained: zennas run with its options. "
            "[default: search alone]",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run; an error where there is none.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a run that is there aside and begin anew.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the winners as JSON on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    search_and_train(**locals())


def search_and_train(
    *,
    track,
    out,
    minutes,
    candidates,
    seed,
    workers,
    budget_ms,
    backend,
    detector,
    space,
    storage,
    address,
    then_train,
    resume,
    fresh,
    json_output,
    training=None,
    max_mb=None,
    max_gmacs=None,
    also=None,
    score=None,
    table=None,
    islands=1,
    device=None,
):
    """A search as a command runs it, and after it the training that `then_train` (a path of faces) asks for; `training`
    holds more of what zennas.train.request takes."""
    if address is None:
        keep_ray_on_loopback()
    # Imported here, so that --help answers at once.
    from zennas.progress import Progress, console_for
    from zennas.records import UserError
    from zennas.run_folder import lasting, lasting_url
    from zennas.score.scores import SCORES
    from zennas.search.run import run_search
    from zennas.search.scored import checked_table
    from zennas.search.show import print_winners
    from zennas.search.stages import Checked
    from zennas.search.storage import asked_storage, shown, without_secret
    from zennas.track import SearchPlan, load_experiment, load_space, lookup

    if resume and fresh:
        raise UserError("--resume and --fresh exclude each other")
    experiment, the_track, the_space = load_experiment(track)
    given = {"minutes": minutes, "candidates": candidates, "seed": seed, "max_mb": max_mb, "max_gmacs": max_gmacs}
    given["devices"] = _devices(also) if also else None
    values = experiment.search.model_dump() | {name: value for name, value in given.items() if value is not None}
    if score is not None:
        values["score"] = values["score"] | {"name": score}
    plan = SearchPlan.parse(values, "command line")
    for name in (plan.score.name, *plan.evidence.names):
        lookup(SCORES, name, "score")
    if budget_ms is not None and not budget_ms > 0:
        raise UserError(f"--budget-ms: given {budget_ms:g}, allowed: more than 0")
    if workers is not None and not 1 <= workers <= 4096:
        raise UserError(f"--workers: given {workers}, allowed: 1 to 4096")
    if not 1 <= islands <= MOST_ISLANDS:
        raise UserError(f"--islands: given {islands}, allowed: 1 to {MOST_ISLANDS}")
    asked, storage = storage, asked_storage(storage)
    if islands > 1 and storage is None:
        raise UserError(
            f"--islands {islands}: islands meet in a store that all reach, and the default is a SQLite file of one; "
            f"give "
            "--storage postgresql://USER@HOST/DATABASE, or journal:FILE on one machine"
        )
    if device is not None and address is None:
        raise UserError(
            f"--device {device}: names nodes of a cluster, so give its --address; without one this machine measures"
        )
    if detector is not None and not detector.is_file():
        raise UserError(f"--detector {detector}: no such file")
    out = lasting(out or pathlib.Path("runs") / experiment.name)
    storage, table = lasting_url(storage), lasting_url(checked_table(table))
    trained_out = out.with_name(f"{out.name}-trained")
    if then_train is not None:
        wanted = {"budget_ms": budget_ms, "backend": backend, "space": space, "fresh": fresh} | (training or {})
        training = {name: value for name, value in wanted.items() if value is not None}
        ranks = {name: training.pop(name) for name in ("num_ray_workers", "address") if name in training}
        _check_training(track, data=then_train, on_ray="num_ray_workers" in ranks, **training)
    checked = Checked(
        experiment=experiment,
        track=the_track,
        space=load_space(space) if space else the_space,
        plan=plan,
        out=out,
        backend=backend,
        budget_ms=budget_ms,
        detector=detector,
        num_workers=workers,
        address=address,
        device=device,
        storage=storage,
        table=table,
        num_islands=islands,
        resume=resume,
        fresh=fresh,
    )
    console = console_for(json_output=json_output)
    progress = Progress(console)
    try:
        settled = run_search(checked, progress)
    finally:
        progress.close()
    listed, winners, folder = settled.plain(), settled.winners, settled.folder
    if json_output and (then_train is None or not winners):
        print(json.dumps(listed if then_train is None else {"winners": listed, "trained": None}, indent=2))
    if not winners:
        console.print(
            "no winner: no candidate measured whole kept within the budget; "
            "give more --minutes or --candidates, or look at report.html",
            style="yellow",
        )
        raise typer.Exit(1)
    print_winners(settled, console)
    if settled.stand_in:
        console.print(settled.stand_in, style="yellow")
    storage_url = without_secret(storage).removeprefix("journal:") if storage else f"sqlite:///{out / 'study.db'}"
    pgpass = "    # the password from ~/.pgpass" if storage and shown(storage) != storage else ""
    if islands > 1:
        console.print(
            f"These are the best of what all islands had measured when island {settled.island} had its finals; the "
            f"island that has "
            "them last knows of all.",
            style="yellow",
        )
    same = {"--budget-ms": budget_ms, "--backend": backend}
    again = same | {
        "--max-mb": max_mb,
        "--max-gmacs": max_gmacs,
        "--also": also,
        "--score": score,
        "--space": space,
        "--detector": detector,
        "--storage": asked,
        "--table": table,
        "--islands": islands if islands > 1 else None,
        "--address": address,
        "--device": device,
        "--seed": seed,
        "--workers": workers,
    }
    measure_it = [
        "python",
        "-m",
        "zennas.score",
        str(folder / "winner-1.yaml"),
        "--track",
        track,
        *_flags(same),
        "--measure",
    ]
    more = {"--candidates": 2 * candidates} if candidates else {"--minutes": f"{2 * plan.minutes:g}"}
    search_on = ["python", "-m", "zennas.search", "--track", track, "--out", str(out), *_flags(again | more)]
    train_it = ["python", "-m", "zennas.train", "--track", track, "--winner", str(folder / "winner-1.yaml")]
    train_it += [*_flags(same | {"--space": space}), "--out", str(trained_out), "--data"]
    console.print(
        f"A {plan.score.label} is not an accuracy: it ranks untrained networks of one space.\n\nNext:\n"
        f"  open {folder / 'report.html'}\n"
        f"  optuna-dashboard {storage_url} --artifact-dir {folder / 'artifacts'}{pgpass}\n"
        f"  {shlex.join(measure_it)}\n"
        f"  {shlex.join(search_on)}    # search on\n"
        f"  {shlex.join(train_it)} DATA    # train the best one",
        markup=False,
        soft_wrap=True,
    )
    if then_train is not None:
        from zennas.train.request import request
        from zennas.train.terminal import train_and_tell

        options = request(track, data=then_train, winner=folder / "winner-1.yaml", out=trained_out, **training)
        result, code = train_and_tell(options, console, **ranks)
        if json_output:
            print(json.dumps({"winners": listed, "trained": result}, indent=2))
        raise typer.Exit(code)


def _check_training(track, *, on_ray, **training):
    """UserError for what the training after the search could not use: now, not when the search is over."""
    import torch

    from zennas.records import UserError
    from zennas.train.request import check_request

    check_request(track, **training)
    if training.get("device") == "cuda" and not on_ray and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; give --device cpu")


def _flags(options):
    """The command-line words of the options that were given."""
    given = {
        name: value if isinstance(value, list) else [value] for name, value in options.items() if value is not None
    }
    return [word for name, values in given.items() for value in values for word in (name, str(value))]


def _devices(texts):
    """{table: milliseconds} of TABLE=MS; UserError for what is none."""
    from zennas.records import UserError

    devices = {}
    for text in texts:
        table, equals, ms = text.rpartition("=")
        if table in devices:
            raise UserError(
                f"--also {text}: {table} has a budget of {devices[table]:g} ms already; give one for each table"
            )
        try:
            devices[table] = float(ms)
        except ValueError:
            equals = ""
        if not equals or not table or not devices.get(table, 0) > 0:
            raise UserError(
                f"--also {text}: expected TABLE=MS, such as amd-epyc-fam26-mod2-2c=250, with more than 0 ms"
            )
    return devices


main = commands.function_command(search, help=HELP)

if __name__ == "__main__":
    main()
