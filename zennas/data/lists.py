"""Lists of images and what is known of each: a table with a header, over a folder or any source of images."""

# N images of a list

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from zennas.data.image_set import ImageSet
from zennas.data.named_images import find_images
from zennas.data.tables import read_table
from zennas.records import UserError, shortened, some

TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no", "")


class ImageList(NamedTuple):
    """Images with a label each, and the other columns of their list as text."""

    images: ImageSet
    label_N: np.ndarray  # int64, from 0
    label_names: np.ndarray  # of each of them, as the list has it
    column: dict  # name -> array of text
    line_N: np.ndarray  # of the file, for errors
    image_N: np.ndarray  # int64: equal where an image stands in several lines
    notices: list  # what is odd about the list
    path_N: np.ndarray  # of the images, as the list has them


def list_and_images(text: str) -> tuple[str, str]:
    """(path, images) of PATH@IMAGES; images is "" where there is none. An @ may stand in the names of files that are
    there.

    >>> list_and_images("pairs.txt@images.tar"), list_and_images("lfw.bin")
    (('pairs.txt', 'images.tar'), ('lfw.bin', ''))
    """
    if os.path.exists(text):
        return text, ""
    places = [place for place, letter in enumerate(text) if letter == "@"]
    place = next((place for place in places if os.path.exists(text[:place])), next(iter(places), len(text)))
    return text[:place], text[place + 1 :]


def files_named(text: str) -> list[str]:
    """The files that PATH@IMAGES names: both, or the path alone where there is no @."""
    return [path for path in list_and_images(text) if path]


def read_list(
    path: pathlib.Path,
    images_path: pathlib.Path,
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> ImageList:
    """The ImageList of a table whose header names `image`, `label` and the `required` columns,
    and perhaps `optional` ones.

    Columns are parted by commas, tabs where the file ends in .tsv.
    images_path: where `find_images` finds them: a folder, to which the paths in `image` are relative, or a .tar, a
    folder of .tar shards or RecordIO. UserError for columns that are missing or unknown, paths that lead out of the
    folder, and images that are not there, counted and named. An image that stands in several lines is several images,
    and said to be.
    """
    path, images_path = pathlib.Path(path), pathlib.Path(images_path)
    if path.is_dir():
        turned = f"; the other way round: {images_path}@{path}" if images_path.is_file() else ""
        raise UserError(f"{path}: is a folder, and no list; expected LIST@IMAGES{turned}")
    line_N, table = read_table(path, required=("image", "label", *required), optional=optional)
    image_N = table["image"]
    images = find_images(path, image_N.tolist(), images_path, progress=progress)
    label_N, names = pd.factorize(table["label"], sort=True)
    same_N, _ = pd.factorize(image_N)
    column = {name: values_N for name, values_N in table.items() if name not in ("image", "label")}
    return ImageList(
        images,
        label_N.astype(np.int64),
        names,
        column,
        line_N,
        same_N,
        _oddities(image_N, label_N, column.get("role", np.zeros(len(image_N)))),
        image_N,
    )


def truths(listed: ImageList, name: str, path: pathlib.Path) -> np.ndarray:
    """Truth values of an ImageList's column: 1, true, yes or 0, false, no, or nothing.
    UserError naming the line of another.
    """
    lower_N = np.char.lower(np.asarray(listed.column[name], dtype=np.str_))
    true_N = np.isin(lower_N, TRUE)
    if len(bad := np.flatnonzero(~true_N & ~np.isin(lower_N, FALSE))):
        raise _wrong(listed, name, bad[0], path, "1 or 0")
    return true_N


def choices(listed: ImageList, name: str, allowed: Sequence[str], path: pathlib.Path) -> np.ndarray:
    """The values of an ImageList's column in lower case. UserError naming the line of one that is not allowed."""
    lower_N = np.char.lower(np.asarray(listed.column[name], dtype=np.str_))
    if len(bad := np.flatnonzero(~np.isin(lower_N, allowed))):
        raise _wrong(listed, name, bad[0], path, ", ".join(choice or "nothing" for choice in allowed))
    return lower_N


def _wrong(listed, name, row, path, allowed):
    given = shortened(listed.column[name][row], 120)
    return UserError(f"{path}, line {listed.line_N[row]}: {name}: given {given!r}, allowed: {allowed}")


def _oddities(image_N, label_N, role_N):
    """Sentences about images that stand in the list more than once, in the same role where it has roles."""
    frame = pd.DataFrame({"image": image_N, "label": label_N})
    counts = frame.groupby("image")["label"].agg(["size", "nunique"])
    counts["size"] = frame.groupby(["image", role_N]).size().groupby("image").max()
    oddities = []
    if len(twice := counts.index[counts["size"] > 1]):
        oddities.append(f"{len(twice)} images stand in the list more than once and count as often: {some(twice)}")
    if len(torn := counts.index[counts["nunique"] > 1]):
        oddities.append(f"{len(torn)} images stand there with different labels: {some(torn)}")
    return oddities
