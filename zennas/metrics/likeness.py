"""How alike images are: the cosine of their embeddings, made in blocks of one size so that a tie is a tie.

N images, B of them at a time, against G images; D embedding size

A similarity is the product of two float32 unit rows, summed in float64 and rounded to float32: equal rows are equally
similar then, wherever a block is cut.
"""

from collections.abc import Iterator

import numpy as np

from zennas.records import UserError

BLOCK_VALUES = 2**24  # similarities held at once: 64 MiB, and twice that beside them where neighbours are looked for
BLOCK_ROWS, BLOCK_COLUMNS = 4096, 8192  # what is turned into float64 at once stays small where D is large


def similarity(first_BD: np.ndarray, second_GD: np.ndarray) -> np.ndarray:
    """similarity_BG (float32) of unit rows, summed in float64."""
    first_BD = first_BD.astype(np.float64)
    similarity_BG = np.empty((len(first_BD), len(second_GD)), np.float32)
    for start in range(0, len(second_GD), BLOCK_COLUMNS):
        part = slice(start, start + BLOCK_COLUMNS)
        similarity_BG[:, part] = first_BD @ second_GD[part].astype(np.float64).T
    return similarity_BG


def unit_rows(name: str, embedding_ND: np.ndarray) -> np.ndarray:
    """unit_ND (float32) of embeddings of any length and type of number, also of a memmap; rows of zeros stay zeros.

    UserError where `embedding_ND` is not of two axes, or a row of it is not finite; `name` says whose it is.
    """
    embedding_ND = _two_axes(name, embedding_ND)
    unit_ND = np.empty(embedding_ND.shape, np.float32)
    for start in range(0, len(embedding_ND), BLOCK_ROWS):
        row_BD = np.asarray(embedding_ND[start : start + BLOCK_ROWS], np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(row_BD).all(axis=1))):
            raise UserError(f"{name} row {start + bad[0]} of {len(embedding_ND)}: the embedding is not finite")
        largest_B1 = np.abs(row_BD).max(axis=1, keepdims=True, initial=0)  # first, so that squares cannot overflow
        row_BD = row_BD / np.where(largest_B1 > 0, largest_B1, 1)
        length_B1 = np.linalg.norm(row_BD, axis=1, keepdims=True)
        unit_ND[start : start + BLOCK_ROWS] = row_BD / np.where(length_B1 > 0, length_B1, 1)
    return unit_ND


def both_unit(
    first_name: str, first: np.ndarray, second_name: str, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`unit_rows` of two tables; UserError too where their rows differ in length."""
    first, second = _two_axes(first_name, first), _two_axes(second_name, second)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"{first_name} embeddings have {first.shape[1]} numbers, {second_name} embeddings {second.shape[1]}: "
            "they must come from one network"
        )
    return unit_rows(first_name, first), unit_rows(second_name, second)


def _two_axes(name, embedding_ND):
    embedding_ND = np.asanyarray(embedding_ND)  # a memmap stays one
    if embedding_ND.ndim != 2 or not embedding_ND.size:
        raise UserError(f"{name}: embeddings of shape {embedding_ND.shape}; expected rows of numbers, one row at least")
    return embedding_ND


def one_each(name: str, what: str, value_N: np.ndarray, embedding_ND: np.ndarray) -> np.ndarray:
    """value_N as an array; UserError where there is not one for each row."""
    value_N = np.asarray(value_N)
    if value_N.shape != (len(embedding_ND),):
        raise UserError(
            f"{name}: {len(embedding_ND)} embeddings, and a {what} of shape {value_N.shape}; expected one each"
        )
    return value_N


def blocks(num_rows: int, num_columns: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows that hold BLOCK_VALUES at most."""
    rows = max(1, min(BLOCK_ROWS, BLOCK_VALUES // num_columns))
    return ((start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))
