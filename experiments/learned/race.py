"""The race of protocol.md's piece 5: which of four networks of one latency is best, once trained?

    python experiments/learned/race.py next      # race-trainings.json: whom the line is learned from
    python experiments/learned/faces.py learning ...    # trains them; both again, until there are sixteen
    python experiments/learned/race.py choose    # race.json; run it on a quiet machine
    python experiments/learned/faces.py race ...
    python experiments/learned/race.py judge     # race-results.json; pictures.py draws it

faces.py has trained piece 2; --runs is its --out, where it was given.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import tempfile
from typing import NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import faces  # noqa: E402

sys.path.insert(0, str(faces.OLD))
import truth  # noqa: E402
from figures import SHORT, SPACE, add_runs, curve, genes_of, judged, rounded, truth_of_old, write  # noqa: E402

from zennas.latency.protocol import Protocol  # noqa: E402
from zennas.learn.choosing import NUM_FIRST, next_to_train  # noqa: E402
from zennas.learn.comparison import BY_HAND, LEARNED, PRIOR, ZEN, Device, learned_optimum, scaled_by_hand  # noqa: E402
from zennas.learn.model import fit, left_out, order_of  # noqa: E402
from zennas.learn.outcome import score_of  # noqa: E402
from zennas.score.learned import width_prior_sums  # noqa: E402
from zennas.score.meanfield import mean_field_sums  # noqa: E402
from zennas.search.optimum import Constraint, Problem  # noqa: E402
from zennas.space.parts import Sums, sums  # noqa: E402

NEAR_PCT, MAX_TRIES = 2.5, 12
TRY_ROUNDS, LAST_ROUNDS, NUM_TABLES = 48, 96, 5  # of measurements
NUM_TRAINED, NUM_SEEDS, AT_ONCE = 16, 3, 2
TRAININGS = "race-trainings.json"
CHOSEN_BY, JUDGED_BY = "AUC of folds 8 and 9", "AUC of fold 10"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["next", "choose", "judge"])
    add_runs(parser)
    parser.add_argument("--epochs", type=int, default=24, help="next: how long all are trained, in the race too")
    options = parser.parse_args()
    {"next": propose, "choose": choose, "judge": judge}[options.what](options)


def propose(options):
    """race-trainings.json: the twelve of piece 2, or, once all that it names are trained, two more of the 44, where the
    line's interval reaches highest: as many as are trained at once."""
    path, texts = HERE / TRAININGS, [row["text"] for row in truth_of_old()]
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        rows, feature_NF = [texts.index(text) for text in before["texts"]], np.log(genes_of(texts))
        if len(rows) >= NUM_TRAINED:
            print(f"all {NUM_TRAINED} are named: {path.name} stays as it is")
            return
        line = fit(feature_NF[rows], auc_of(before["texts"], before["epochs"], options))
        while len(rows) < min(NUM_TRAINED, len(before["texts"]) + AT_ONCE):
            rows.append(next_to_train(line, feature_NF, rows))
        named, epochs = [texts[row] for row in rows], before["epochs"]
    else:
        named, epochs = twelve_of_length(), options.epochs
    assert len(named) >= NUM_FIRST
    write(TRAININGS, {"epochs": epochs, "texts": named}, options, by="race.py")
    print(f"{len(named)} of {NUM_TRAINED}: {', '.join(named[-AT_ONCE:])}")


def twelve_of_length():
    return list(dict.fromkeys(text for text, *_ in faces.of_length()))


def auc_of(texts, epochs, options):
    """auc_N by which the line is learned; SystemExit where one is not trained yet."""
    known = {text: judged((text, epochs, 0), options) for text in texts}
    if missing := [text for text, value in known.items() if value is None]:
        raise SystemExit(f"{len(missing)} are not trained for {epochs} epochs yet: {', '.join(missing)}")
    return np.array([known[text][CHOSEN_BY] for text in texts])


def choose(options):
    """race.json: the four networks, each brought to the same measured latency."""
    from zennas.latency.budget import choose_protocol
    from zennas.track import load_experiment

    experiment, track, _ = load_experiment(faces.EXPERIMENT)
    protocol, _ = choose_protocol(track)
    learnt = json.loads((HERE / TRAININGS).read_text(encoding="utf-8"))
    trained = [faces.candidate_of(text) for text in learnt["texts"]]
    beside = Beside.of(trained, protocol)
    trained_ms = dict(zip(learnt["texts"], beside.ms(trained), strict=True))
    target_ms = float(np.median(list(trained_ms.values())))
    print(f"the {len(trained)} trained: {target_ms:.3f} ms here, {sorted(trained_ms.values())}", flush=True)
    table = least_of_tables(protocol)
    table_ms = sums(SPACE, table.part_ms)
    of_table = [table.predict(candidate, SPACE.shape) for candidate in trained]
    factor = float(np.median(np.array(list(trained_ms.values())) / of_table))
    score, order = learned_from(learnt["texts"], learnt["epochs"], trained_ms, options)
    plan = experiment.search.score
    zen = mean_field_sums(SPACE, plan.shape(SPACE.shape).hw, plan.batch)

    def most(total):
        return lambda device: Problem(SPACE, total, device.costs).solve().candidate

    ways = {
        LEARNED: lambda device: learned_optimum(device, score),
        ZEN: most(zen),
        PRIOR: most(width_prior_sums(SPACE)),
        BY_HAND: scaled_by_hand,
    }
    target = Target(target_ms, table_ms, factor, beside)
    chosen = {name: at_latency(way, target) for name, way in ways.items()}
    short, short_order = learned_from(twelve_of_length(), SHORT, trained_ms, options)
    of_short = at_latency(lambda device: learned_optimum(device, short), target)
    networks = []
    for (name, candidate), measured_ms in zip(chosen.items(), beside.ms(chosen.values(), LAST_ROUNDS), strict=True):
        mean, std = score.of_candidate(candidate)
        networks.append(
            {
                "name": name,
                "text": candidate.text,
                "candidate": candidate.plain(),
                "measured_ms": measured_ms,
                "expected": round(100 * mean, 3),
                "expected_std": round(100 * std, 3),
                "within": score.is_within(candidate),
            }
        )
        print(f"{name}: {candidate.text}, {measured_ms} ms, {100 * mean:.2f} ± {100 * std:.2f} % expected")
    race = {
        "epochs": learnt["epochs"],
        "seeds": NUM_SEEDS,
        "target_ms": target_ms,
        "trained_ms": trained_ms,
        "left_out_tau": order._asdict(),
        "score": score.model_dump(mode="json"),
        "networks": networks,
        f"from_{SHORT}_epochs": {"text": of_short.text, "left_out_tau": short_order._asdict()},
    }
    write("race.json", race, options, by="race.py")


class Beside(NamedTuple):
    """Latencies on a machine whose speed changes from one second to the next, by a third: each round measures a
    network and three references, and the median of the rounds' ratios counts."""

    references: list  # three of the trained, of middle latency
    reference_ms: float  # of the three, on average
    protocol: Protocol

    @classmethod
    def of(cls, trained, protocol):
        ms_RN = cls.rounds(trained, protocol, TRY_ROUNDS)
        order = np.argsort(np.median(ms_RN / ms_RN.mean(1, keepdims=True), 0))
        middle = order[len(order) // 2 - 1 :][:3]
        return cls([trained[row] for row in middle], float(np.median(ms_RN[:, middle].mean(1))), protocol)

    def ms(self, candidates, num=None):
        """[ms of each candidate], measured in turns with the references; in all the same rounds."""
        candidates = list(candidates)
        ms_RN = self.rounds([*candidates, *self.references], self.protocol, num or TRY_ROUNDS)
        ratio_RN = ms_RN[:, : len(candidates)] / ms_RN[:, len(candidates) :].mean(1, keepdims=True)
        return [round(self.reference_ms * float(ratio), 4) for ratio in np.median(ratio_RN, 0)]

    @staticmethod
    def rounds(candidates, protocol, num):
        """ms_RN of candidates by the track's rule, all in each round."""
        both = truth.measure_in_rounds(candidates, protocol, {"shape": SPACE.shape}, num=num)
        return np.array([rounds for _, rounds in both]).T


def least_of_tables(protocol):
    """A LatencyTable of the least of NUM_TABLES measurements of each part, so that what a busy neighbour of the machine
    adds is left out."""
    from zennas.latency.table import LatencyTable

    least = {}
    for _ in range(NUM_TABLES):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ZENNAS_CACHE"] = folder
            table = LatencyTable(protocol)
            table.ensure(table.parts_for(SPACE))
        for part, ms in table.rows.items():
            least[part] = min(ms, least.get(part, math.inf))
    table.rows.update(least)
    return table


def learned_from(texts, epochs, trained_ms, options):
    """(LearnedScore, Order of leaving each out) of trainings, as `zennas learn` makes it."""
    feature_NF, auc_N = np.log(genes_of(texts)), auc_of(texts, epochs, options)
    order = order_of(left_out(feature_NF, auc_N), auc_N)
    score = score_of(
        SPACE,
        fit(feature_NF, auc_N),
        order,
        [faces.candidate_of(text) for text in texts],
        least_share=min(1.0, min(trained_ms[text] for text in texts) / float(np.median(list(trained_ms.values())))),
        measure=CHOSEN_BY,
        unit="",
    )
    return score, order


class Target(NamedTuple):
    """The latency to which each way's own network is brought, and what foretells it."""

    ms: float
    table_ms: Sums
    factor: float  # of the table, from the trained
    beside: Beside


def at_latency(way, target):
    """The candidate that a way puts first, the table corrected by what that way's own candidates measure, until one is
    within NEAR_PCT of the target; the nearest of all tried where none is."""
    factor, tried = target.factor, {}  # tried: {candidate: measured ms}
    for _ in range(MAX_TRIES):
        device = Device(SPACE, [Constraint("latency (ms)", target.table_ms, target.ms / factor)], None, factor)
        candidate = way(device)
        if not (again := candidate in tried):
            (tried[candidate],) = target.beside.ms([candidate])
            print(f"{candidate.text}: {device.ms(candidate):.3f} ms predicted, {tried[candidate]} measured", flush=True)
        if abs(tried[candidate] / target.ms - 1) <= NEAR_PCT / 100:
            return candidate
        off = tried[candidate] / device.ms(candidate)
        factor *= math.sqrt(off) if again else off  # half of the way where candidates alternate
    return min(tried, key=lambda candidate: abs(tried[candidate] / target.ms - 1))


def judge(options):
    """race-results.json: AUC of each network and seed on the people whom nobody was chosen by."""
    race = json.loads((HERE / "race.json").read_text(encoding="utf-8"))
    runs = {
        row["name"]: [(row["text"], race["epochs"], seed) for seed in range(race["seeds"])] for row in race["networks"]
    }
    rows = {}
    for name, of_name in runs.items():
        aucs = {seed: judged(run, options) for seed, run in enumerate(of_name)}
        rows[name] = {seed: value[JUDGED_BY] for seed, value in aucs.items() if value}
    done = {name: np.array(list(values.values())) for name, values in rows.items() if values}
    spread = math.sqrt(np.mean([values.var(ddof=1) for values in done.values() if len(values) > 1]))
    learned, compared = done[LEARNED], {}
    for name, values in done.items():
        if name == LEARNED:
            continue
        both = sorted(set(rows[name]) & set(rows[LEARNED]))
        points = 100 * float(learned.mean() - values.mean())
        # Of the difference of two means of so many trainings, of which each has this spread.
        error = 100 * spread * math.sqrt(1 / len(learned) + 1 / len(values))
        compared[name] = {
            "points": round(points, 3),
            "by_seed": [round(100 * (rows[LEARNED][seed] - rows[name][seed]), 3) for seed in both],
            "standard_error": round(error, 3),
            "outside_the_spread": abs(points) > 2 * error,
        }
    curves = {name: [curve(run, options, JUDGED_BY) for run in of_name] for name, of_name in runs.items()}
    values = {
        "auc": {name: {seed: round(value, 5) for seed, value in of_name.items()} for name, of_name in rows.items()},
        "mean": {name: round(float(values.mean()), 5) for name, values in done.items()},
        "between_seeds_std": round(spread, 5),
        "learned_less": compared,
        "curves": {
            name: [[rounded(value) for value in values] for values in of_name] for name, of_name in curves.items()
        },
    }
    write("race-results.json", values, options, by="race.py")
    print(json.dumps({key: value for key, value in values.items() if key != "curves"}, indent=1))


if __name__ == "__main__":
    main()
