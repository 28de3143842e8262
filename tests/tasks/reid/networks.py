"""Small networks for people: one with three branches, as MGN has them, and one of one vector."""

import torch
from torch import nn

from zennas.space.shape import Shape

SHAPE = Shape(channels=3, height=16, width=8, embedding_size=32)
WIDE, REDUCED, STRIPES = 10, 4, (2, 3)


class Branches(nn.Module):
    """Three branches behind a trunk: 3 wide vectors, 3 reduced ones, 2 + 3 stripes; the embedding is the last eight."""

    def __init__(self, *, norms=True, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.shape, self.input_shape = SHAPE, SHAPE.image
        norm = nn.BatchNorm2d if norms else nn.Identity
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=not norms), norm(8), nn.PReLU(8))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, WIDE, 3, 1, 1, bias=not norms), norm(WIDE), nn.ReLU()) for _ in range(3)
        )
        self.whole = nn.ModuleList(nn.Linear(WIDE, REDUCED, bias=False) for _ in range(3))
        self.stripes = nn.ModuleList(nn.Linear(WIDE, REDUCED, bias=False) for _ in range(sum(STRIPES)))

    def vectors(self, image_BCHW):
        maps = [branch(self.trunk(image_BCHW)) for branch in self.branches]
        wide = [map_BCHW.amax((2, 3)) for map_BCHW in maps]
        whole = [layer(vector) for layer, vector in zip(self.whole, wide, strict=True)]
        cut = [
            torch.stack([part.amax((2, 3)) for part in map_BCHW.tensor_split(num, dim=2)])
            for num, map_BCHW in zip(STRIPES, maps[1:], strict=True)
        ]
        stripes = [layer(vector) for layer, vector in zip(self.stripes, torch.cat(cut), strict=True)]
        return {"embedding": torch.cat([*whole, *stripes], 1), "wide": wide, "whole": whole, "stripes": stripes}

    def forward(self, image_BCHW):
        return self.vectors(image_BCHW)["embedding"]


class Single(nn.Module):
    """One branch that ends with a neck: its features before that are wide and whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.input_shape = SHAPE, SHAPE.image
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 8, 32))
        self.neck = nn.BatchNorm1d(32)

    def vectors(self, image_BCHW):
        feature_BD = self.layers(image_BCHW)
        return {"embedding": self.neck(feature_BD), "wide": [feature_BD], "whole": [feature_BD], "stripes": []}

    def forward(self, image_BCHW):
        return self.vectors(image_BCHW)["embedding"]


class Plain(nn.Module):
    """A network that knows nothing of vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.input_shape = SHAPE, SHAPE.image
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 8, 32))

    def forward(self, image_BCHW):
        return self.layers(image_BCHW)
