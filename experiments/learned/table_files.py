"""Tables of trained networks that others published, as pools to choose from: genes, cost, truth, and what is known of
each network without any training. Used by tables.py; protocol.md says why each is read as it is.

A further table takes one function and its row in TABLES.
"""

# N networks, F features

import csv
import functools
import math
import pathlib
from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
    """A pool of networks, and how groups of equal cost are drawn from it."""

    title: str
    cost: str  # what `cost_N` is
    window: float | None  # a group lies within this share of its middle's cost; None: all are one group
    features: tuple[str, ...]
    feature_NF: np.ndarray
    cost_N: np.ndarray
    truth_N: np.ndarray  # in points, more is better
    known: dict[str, np.ndarray]  # S and what else is known of a network before any is trained; more is better
    nearest: bool = False  # a group is the nearest in cost, however wide that is, instead of the window


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


def read(path):
    """Rows of a CSV file, by column."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- NATS-Bench, size: five widths

# Of the convolutions on the longest path: the first sees the image, a cell or a reduction has w_before, then its own.
SSS_FAN_INS = ((0, 4), (1, 2), (2, 3), (3, 2), (4, 2))  # (width, how many convolutions sum over it)
SSS = tuple(f"w{number}" for number in range(1, 6))


def sss_cifar10(folder):
    rows = read(folder / "nats_sss_cifar10.csv")
    return _sss("NATS-Bench size, CIFAR-10", rows, column(rows, "acc"), rows)


def sss_imagenet16(folder):
    rows = read(folder / "nats_sss_imagenet16_subset.csv")
    counted = {tuple(row[name] for name in SSS): row for row in read(folder / "nats_sss_cifar10.csv")}
    counts = [counted[tuple(row[name] for name in SSS)] for row in rows]
    return _sss("NATS-Bench size, 495 of ImageNet16-120", rows, -column(rows, "top1_error"), counts)


def _sss(title, rows, truth_N, counts):
    ln_width_NF = np.log(np.column_stack([column(rows, name) for name in SSS]))
    zen_N = sum(0.5 * times * ln_width_NF[:, place] for place, times in SSS_FAN_INS) + ln_width_NF[:, -1]
    known = {"S": ln_width_NF.sum(1), "parameters": column(counts, "params"), ZEN: zen_N}
    names = tuple(f"ln {name}" for name in SSS)
    return Table(title, "MACs", 0.05, names, ln_width_NF, column(counts, "macs"), truth_N, known)


ZEN = "Zen-Score, closed form"

# --- TransNAS-Bench-101, macro: four to six modules of two basic residual blocks, told by digits


class Macro(NamedTuple):
    """What the digits of a macro network say."""

    widths: tuple[int, ...]  # of the modules
    macs: int
    activations: int  # numbers that its convolutions give
    zen: float


def macro_of(code, *, image_px=256, channels=64):
    """The Macro of a code; an even digit doubles the channels, one above 2 halves the map.

    Two convolutions of stride 2, of 32 and 64 channels, stand before the first module: so these MACs are the table's.
    The Zen-Score is that of wide networks and large maps: half the log of each fan-in, half of ln 2 less for each ReLU,
    and the log of how many numbers the last map has. On 30 of the networks its tau with the measured score is 0.97.

    >>> macro_of("1421").widths
    (64, 128, 256, 256)
    """
    px, widths = image_px // 4, []
    macs = 27 * 32 * (image_px // 2) ** 2 + 9 * 32 * channels * px**2
    activations = 32 * (image_px // 2) ** 2 + channels * px**2
    zen = 0.5 * (math.log(27) + math.log(9 * 32)) - math.log(2) / 2
    for digit in map(int, code):
        width = 2 * channels if digit % 2 == 0 else channels
        px //= 2 if digit > 2 else 1
        for fan_in in (channels, width, width, width):
            macs += 9 * fan_in * width * px**2
            activations += width * px**2
            zen += 0.5 * math.log(9 * fan_in) - math.log(2) / 2
        if digit != 1:  # the shortcut's own convolution
            macs += channels * width * px**2
            activations += width * px**2
        channels = width
        widths.append(width)
    return Macro(tuple(widths), macs, activations, zen + math.log(channels * px**2))


def macro_object(folder):
    return _macro(folder, "class_object")


def macro_scene(folder):
    return _macro(folder, "class_scene")


def macro_of_task(task):
    """The reader of another of its tasks; of all, more is better."""
    return functools.partial(_macro, task=task)


def _macro(folder, task):
    rows = read(folder / "tnb101_macro.csv")
    macros = [macro_of(row["code"]) for row in rows]
    activation_N = np.array([macro.activations for macro in macros], float)
    counts = _counts(column(rows, "params"), activation_N, column(rows, "blocks"))
    known = {
        "S": np.array([np.log(macro.widths).sum() for macro in macros]),  # a module is a stage
        "fewer blocks": -column(rows, "blocks"),
        "parameters": column(rows, "params"),
        ZEN: np.array([macro.zen for macro in macros]),
    }
    title = f"TransNAS-Bench macro, {task}"
    return Table(title, "MACs", 0.05, COUNTS, counts, column(rows, "macs"), column(rows, task), known)


# Where networks have no genes in common: a number of stages that varies, or resolution apart from them.
COUNTS = ("ln parameters", "ln activations", "ln blocks")


def _counts(param_N, activation_N, block_N):
    return np.log(np.column_stack([param_N, activation_N, block_N]))


# --- archai, face landmarks: MobileNetV2 with multipliers of width and depth, and blocks of each stage


class Mobile(NamedTuple):
    """What a row says: widths and blocks of the seven stages."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    params: int


def mobile_of(row, *, outputs=140):
    """The Mobile of a row. The first stage has one separable block of 16 channels, whatever the multipliers.

    Widths are multiples of 8 and no more than a tenth below what the multiplier makes of them, blocks are rounded up.
    """
    wide, deep = float(row["channel_multiplier"]), float(row["depth_multiplier"])
    widths, depths = [int(row["c0"])], [int(row["r0"])]
    for stage in range(1, 7):
        width = int(row[f"c{stage}"]) * wide
        rounded = max(8, int(width + 4) // 8 * 8)
        widths.append(rounded + 8 if rounded < 0.9 * width else rounded)
        depths.append(math.ceil(int(row[f"r{stage}"]) * deep))
    params, before = 27 * 32 + 2 * 32, 32
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        kernel, times = int(row[f"k{stage}"]), int(row[f"e{stage}"] or 1)
        for _ in range(depth):
            inside = before * times
            params += (before + 2) * inside if times > 1 else 0
            params += (kernel**2 + 2) * inside + (inside + 2) * width
            before = width
    params += (before + 2) * 1280 + (1280 + 1) * outputs
    return Mobile(tuple(widths), tuple(depths), params)


def landmarks(folder):
    rows = read(folder / "archai_landmarks.csv")
    mobiles = [mobile_of(row) for row in rows]
    # One multiplier widens all stages, so width is one gene; six of the same would count six times in a distance.
    genes = [np.log(column(rows, "channel_multiplier"))]
    names = ["ln width"]
    for stage in range(7):
        depth_N = np.array([mobile.depths[stage] for mobile in mobiles])
        if np.ptp(depth_N):
            genes.append(np.log(depth_N))
            names.append(f"ln blocks of stage {stage + 1}")
    known = {
        "S": np.array([np.log(mobile.widths).sum() for mobile in mobiles]),
        "fewer blocks": -np.array([sum(mobile.depths) for mobile in mobiles], float),
        "parameters": np.array([mobile.params for mobile in mobiles], float),
    }
    return Table(
        "archai, face landmarks",
        "measured latency",
        0.10,
        tuple(names),
        np.column_stack(genes),
        column(rows, "onnx_latency_ms"),
        -100 * column(rows, "partial_error"),
        known,
    )


# --- RegNetX at 0.4 GF


def regnetx(folder):
    rows = read(folder / "regnetx_400mf_search.csv")
    param_N, block_N = (
        column(rows, "params"),
        np.array([sum(map(int, row["depths"].split("-"))) for row in rows], float),
    )
    known = {
        "S": np.array([np.log([int(width) for width in row["widths"].split("-")]).sum() for row in rows]),
        "fewer blocks": -block_N,
        "parameters": param_N,
    }
    counts = _counts(param_N, column(rows, "acts"), block_N)
    return Table("RegNetX, 0.4 GF", "MACs", None, COUNTS, counts, column(rows, "macs"), column(rows, "accuracy"), known)


# --- the rows


def nearest(reader):
    """The reader's table with groups of the 50 nearest in cost, where its window holds fewer."""

    def wide(folder):
        table = reader(folder)
        return table._replace(title=f"{table.title}, 50 nearest", nearest=True)

    return wide


# {name: function of the folder of the files}
TABLES = {
    "sss_cifar10": sss_cifar10,
    "sss_imagenet16": sss_imagenet16,
    "macro_object": macro_object,
    "macro_scene": macro_scene,
    "landmarks": landmarks,
    "regnetx": regnetx,
    "sss_imagenet16_nearest": nearest(sss_imagenet16),
    "landmarks_nearest": nearest(landmarks),
}
# Other tasks of TransNAS-Bench, for what was found afterwards
FURTHER = {
    f"macro_{task}": macro_of_task(task)
    for task in ("jigsaw", "room_layout", "segmentsemantic", "normal", "autoencoder")
}


def load(name, folder):
    """The Table of a name, from the folder of the files."""
    return (TABLES | FURTHER)[name](pathlib.Path(folder))
