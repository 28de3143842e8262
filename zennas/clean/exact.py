"""All centres compared, on a GPU: what an index only approximates is minutes of matrix products there.

Q queries, C centres, K of them, B a block of queries, D embedding size
"""

import pathlib
from typing import Self

import numpy as np
import torch

from zennas.embed.largest import largest

QUERIES, CENTRES = 8192, 131_072  # of a product: 2 GiB of cosines in float16


class ExactIndex:
    """What CentreIndex offers, by products with every centre;
    on a GPU in float16, whose cosines are off by up to 0.001.
    """

    def __init__(self, centre_CD: np.ndarray, number_C: np.ndarray, *, device: str):
        self.device = torch.device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.number_C = np.asarray(number_C, np.int64)
        self._centre_CD = torch.from_numpy(np.array(centre_CD, np.float32)).to(self.device, self.dtype)

    @classmethod
    def open(cls, path: pathlib.Path | str, *, device: str) -> Self:
        """The index of the centres in a file (.npy), whose numbers lie in .numbers.npy beside it."""
        path = pathlib.Path(path)
        return cls(np.load(path, mmap_mode="r"), np.load(path.with_suffix(".numbers.npy")), device=device)

    def nearest(self, unit_QD: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """(number_QK, cosine_QK) of the `num` nearest centres, the nearest first; -1 and -inf where there are fewer."""
        place_QK, cosine_QK = np.zeros((len(unit_QD), num), np.int64), np.full((len(unit_QD), num), -np.inf, np.float32)
        for start, query_BD in self._blocks(unit_QD):
            best_BK, place_BK = largest(self._cosines(query_BD), num)
            part = slice(start, start + len(query_BD)), slice(best_BK.shape[1])
            place_QK[part], cosine_QK[part] = place_BK.cpu().numpy(), best_BK.float().cpu().numpy()
        return np.where(np.isfinite(cosine_QK), self.number_C[place_QK], -1), cosine_QK

    def alike(self, unit_QD: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row_P, number_P, cosine_P) of all pairs of a query and a centre above the threshold."""
        rows, numbers, cosines = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for start, query_BD in self._blocks(unit_QD):
            for first, cosine_BC in self._cosines(query_BD):
                row_P, place_P = (cosine_BC > threshold).nonzero(as_tuple=True)
                rows.append(start + row_P.cpu().numpy())
                numbers.append(self.number_C[first + place_P.cpu().numpy()])
                cosines.append(cosine_BC[row_P, place_P].float().cpu().numpy())
        return tuple(np.concatenate(parts) for parts in (rows, numbers, cosines))

    def _blocks(self, unit_QD):
        for start in range(0, len(unit_QD), QUERIES):
            block_BD = np.array(unit_QD[start : start + QUERIES], np.float32)
            yield start, torch.from_numpy(block_BD).to(self.device, self.dtype)

    def _cosines(self, query_BD):
        for first in range(0, len(self._centre_CD), CENTRES):
            yield first, query_BD @ self._centre_CD[first : first + CENTRES].T
