"""Trainings of small IR-SE networks on real faces, with the AUC of every epoch: pieces 2, 3 and 5 of protocol.md.

    python experiments/learned/faces.py length --faces lfw_aligned_112.tar --folds FOLDER --teacher mobilefacenet.onnx
    python experiments/learned/faces.py sealed ... [--first 12]
    python experiments/learned/faces.py learning ...    # race.py names whom
    python experiments/learned/faces.py race ...

FOLDER holds LFW's people.txt and pairs.txt: the people of folds 1 to 7 are trained on, those of folds 8 to 10 judge.
Every training keeps its weights and the AUC of every epoch under --out and is never run again; the same command goes
on where it stopped, also after a kill. figures.py makes the figures of what is done, and keeps the AUCs in
trainings.json: what that file holds is not trained again where --out is gone.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lfw-smoke"))
sys.path.insert(0, str(HERE.parent / "equal-latency"))
OLD = HERE.parent / "equal-latency"
EXPERIMENT = str(OLD / "experiment.yaml")
LENGTHS = (8, 24, 72)  # epochs
# Two groups, so that the race is judged by people who chose nobody.
GROUPS = {"AUC": (7, 8, 9), "AUC of folds 8 and 9": (7, 8), "AUC of fold 10": (9,)}
NUM_SEALED = 30  # that are trained, of the 40: what the machine allows
MOST_IMAGES = 4  # of a person, as in experiments/equal-latency
DONE, KEPT = "judged.json", "trainings.json"
RUNS = pathlib.Path("runs/learned")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*PIECES, "one"])
    parser.add_argument("--faces", type=pathlib.Path, required=True, help="aligned LFW, a .tar or a folder")
    parser.add_argument("--folds", type=pathlib.Path, required=True, help="folder of people.txt and pairs.txt")
    parser.add_argument("--teacher", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=RUNS)
    parser.add_argument("--at-once", type=int, default=2, help="trainings side by side, of one thread each")
    parser.add_argument("--precision", default="bf16", help="bf16: 0.55 of the time of fp32 on this processor")
    parser.add_argument("--first", type=int, help="only so many of the piece's trainings")
    parser.add_argument("--candidate", help="one: text of the candidate")
    parser.add_argument("--epochs", type=int, help="one: how long")
    parser.add_argument("--seed", type=int, help="one: seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "one":
        train_one(options)
        return
    runs = PIECES[options.what]()[: options.first]
    todo = [run for run in runs if judged(run, options.out, options.precision) is None]
    print(f"{len(runs) - len(todo)} of {len(runs)} trainings are done", flush=True)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        for number, run in enumerate(pool.map(lambda run: in_process(run, options), todo), start=1):
            minutes = (time.monotonic() - began) / 60
            left = f"about {minutes / number * (len(todo) - number):.0f} minutes left"
            print(f"{number} of {len(todo)}: {run}, {left}", flush=True)


def of_length():
    """[(text, epochs, seed)] of piece 2: 8 epochs, then 24, then 72, shallow and deep in turn."""
    rows = json.loads((OLD / "truth.json").read_text(encoding="utf-8"))["candidates"]
    rows = sorted(rows, key=lambda row: (row["values"]["blocks"], row["text"]))
    thirds = np.array_split(np.arange(len(rows)), 3)
    chosen = [[rows[third[round(at)]]["text"] for at in np.linspace(0, len(third) - 1, 4)] for third in thirds]
    shallow, middle, deep = chosen
    in_turn = [text for four in zip(shallow, deep, middle, strict=True) for text in four]
    return [(text, epochs, 0) for epochs in LENGTHS for text in in_turn]


def of_sealed():
    """[(text, epochs, seed)] of piece 3: the twelve of twelve.json, others, and a third with a second seed."""
    rows = json.loads((HERE / "sealed.json").read_text(encoding="utf-8"))["candidates"]
    texts = [row["text"] for row in rows]
    first = json.loads((HERE / "twelve.json").read_text(encoding="utf-8"))["texts"]
    ordered = (first + [text for text in texts if text not in first])[:NUM_SEALED]
    return [(text, LENGTHS[0], 0) for text in ordered] + [(text, LENGTHS[0], 1) for text in ordered[::3]]


def of_race():
    """[(text, epochs, seed)] of piece 5: race.json names the networks and the length; every seed in turn."""
    race = json.loads((HERE / "race.json").read_text(encoding="utf-8"))
    return [(row["text"], race["epochs"], seed) for seed in range(race["seeds"]) for row in race["networks"]]


def of_learning():
    """[(text, epochs, seed)] from which the race's line is learned: race-trainings.json names them."""
    learning = json.loads((HERE / "race-trainings.json").read_text(encoding="utf-8"))
    return [(text, learning["epochs"], 0) for text in learning["texts"]]


PIECES = {"length": of_length, "sealed": of_sealed, "learning": of_learning, "race": of_race}


def folder_of(run, out):
    text, epochs, seed = run
    return out / f"{text}-{epochs}-{seed}"


def judged(run, out, precision):
    """{measure: AUC} of a training that is done, under `out` or in trainings.json, or None."""
    path = folder_of(run, out) / DONE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    entry = kept().get(key_of(run, precision))
    return entry and {group: entry[group][-1] for group in GROUPS if group in entry}


def key_of(run, precision):
    """The name of a training in trainings.json."""
    text, epochs, seed = run
    return f"{precision} {text}-{epochs}-{seed}"


@functools.cache
def kept():
    """{"bf16 TEXT-EPOCHS-SEED": {measure: [AUC after each epoch, None where unknown]}} of trainings.json."""
    return json.loads((HERE / KEPT).read_text(encoding="utf-8"))["trainings"] if (HERE / KEPT).is_file() else {}


def in_process(run, options):
    text, epochs, seed = run
    folder = folder_of(run, options.out)
    command = [sys.executable, __file__, "one", "--candidate", text, "--epochs", str(epochs), "--seed", str(seed)]
    for name in ("faces", "folds", "teacher", "out", "precision"):
        command += [f"--{name}", str(getattr(options, name))]
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: exit code {done.returncode}; see {folder.with_suffix('.log')}")
    return run


def train_one(options):
    """One training, judged after every epoch; its AUCs, seconds and weights in its folder."""
    import torch
    from smoke import split
    from truth_figures import auc

    from zennas.data.sources import open_source
    from zennas.embed.checkpoint import save_network
    from zennas.progress import silent
    from zennas.ranks import join
    from zennas.run_folder import write_atomically
    from zennas.space.candidate import Candidate
    from zennas.tasks.face.pairs import folds_of_people
    from zennas.tasks.face.verify import in_eval
    from zennas.tasks.table import task_of
    from zennas.train import prepare
    from zennas.train.loop import Training
    from zennas.train.options import Options
    from zennas.train.request import check

    torch.set_num_threads(1)
    folder = folder_of((options.candidate, options.epochs, options.seed), options.out)
    folder.mkdir(parents=True, exist_ok=True)
    identities, _ = split(options)
    take_over_teacher(folder, options.out)
    winner = folder / "candidate.yaml"
    write_atomically(winner, json.dumps(candidate_of(options.candidate).plain()))
    changes = [f"epochs={options.epochs}", f"seed={options.seed}", "verify_epochs=1", "data.workers=0"]
    changes.append(f"precision={options.precision}")
    request = check(
        Options.of(
            data=options.faces,
            track=EXPERIMENT,
            winner=winner,
            identities=identities,
            teacher=str(options.teacher),
            any_size=True,
            out=folder,
            set=tuple(changes),
        )
    )
    progress, ranks, task = silent(), join("cpu"), task_of(request.task)
    data, teacher = task.open_data(request, progress), task.open_teacher(request, ranks)
    job = prepare.prepare(request, data, teacher, ranks, progress)
    assert Candidate(**json.loads(winner.read_text())) == request.candidate

    source = open_source(options.faces)
    fold_of = {
        name: fold for fold, people in enumerate(folds_of_people(options.folds / "people.txt")) for name in people
    }
    fold_N = np.array([fold_of.get(source.identity_names[label], -1) for label in source.label_N])
    order_N = np.random.default_rng(0).permutation(source.num_images)
    label_N = np.asarray(source.label_N)
    held = np.flatnonzero(np.isin(fold_N, GROUPS["AUC"]))
    taken = [order_N[label_N[order_N] == label][:MOST_IMAGES] for label in np.unique(label_N[held])]
    index_M = np.sort(np.concatenate(taken))
    pixels = torch.from_numpy(
        np.stack([p for _, some in source.images.batches(index_M, request.space.shape.hw, 128) for p in some])
    )

    def judged(network):
        embed = in_eval(network, ranks.device)
        unit_MD = torch.nn.functional.normalize(torch.cat([embed(part) for part in pixels.split(128)])).numpy()
        found = {}
        for name, folds in GROUPS.items():
            in_group = np.isin(fold_N[index_M], folds)
            some_MD, label_M = unit_MD[in_group], label_N[index_M][in_group]
            upper = np.triu_indices(len(some_MD), 1)
            found[name] = auc((some_MD @ some_MD.T)[upper], (label_M[:, None] == label_M)[upper])
        return found

    began = time.monotonic()

    def after_verify(network, step, note):
        note("auc", judged(network), epoch=round(step / job.steps_per_epoch), seconds=time.monotonic() - began)

    trained = Training(job, ranks, progress, after_verify=after_verify).run()
    save_network(folder / "network.pt", job.network)
    write_atomically(folder / DONE, json.dumps(judged(job.network) | {"seconds": trained.seconds}))


def take_over_teacher(folder, out):
    """The teacher's embeddings that a training before made: they are the same for all."""
    for done in out.glob(f"*/{DONE}"):
        for path in done.parent.glob("teacher-*.npy*"):
            if not (folder / path.name).exists():
                os.link(path, folder / path.name)
        return


def candidate_of(text):
    """The candidate of its canonical text, `ir_se-16-16x1-104x1-248x1`."""
    from zennas.space.candidate import Candidate

    block, stem, *stages = text.split("-")
    widths, depths = zip(*(map(int, stage.split("x")) for stage in stages), strict=True)
    return Candidate(block=block, stem=int(stem), widths=widths, depths=depths)


if __name__ == "__main__":
    main()
