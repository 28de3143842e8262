"""KINDS: the masks, drawn by a seed in the layout of textures; and a user's own templates.

A texture is an RGBA image of 512 x 512 in the layout (mesh.in_layout): the face unrolled, forehead above. Straps are
drawn with the mask: they lie on the cheek on their way to the ears. H, W texels; in a paint function every array is HW.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from zennas.mask import mesh
from zennas.mask.mesh import Shell
from zennas.mask.paints import KINDS_OF_PAINT
from zennas.records import UserError, some, suggestion
from zennas.run_folder import explaining

TEXTURE_PX = 512
NUM_VARIANTS = 6  # drawings of each kind that a run uses: a drawing takes 30 ms, an image less than 10
STRAP_TEXELS = 6  # what is narrower is a strap, not the body of a mask
MIN_COVERED = 0.02  # of a texture's area; below, there is no mask on it
TEMPLATE_SUFFIXES = (".png", ".webp", ".tif", ".tiff")
SUPERSAMPLING = 4
TEMPLATE_SHAPE = {"gap_cm": 0.25, "dome_cm": 0.1, "ridge_cm": 0.0}  # how a user's own mask lies: as a cloth one


class Outline(NamedTuple):
    """The edge of a mask by its left half: (distance from the middle, height) in canonical texture coordinates,
    from the middle outwards along its upper and its lower edge; their last points are joined by the side.
    straps: lines to the ears.
    """

    top: tuple
    bottom: tuple
    straps: tuple
    strap_texels: float = 7.0
    straight: bool = False  # a folded mask has corners where a cloth one has curves


class MaskKind(NamedTuple):
    """One kind of mask: its edge, its paint and how it stands on the face (mesh.drape)."""

    outline: Outline
    paint: Callable  # (Sheet, rng) -> (rgb_HW3 in [0, 1], strap_rgb)
    shape: dict


class Sheet(NamedTuple):
    """Where every texel lies on a mask: across_HW from -1 to 1, down_HW from 0 at its upper edge to 1, edge_HW texels
    inside its edge (negative outside), x_HW and y_HW texels."""

    across_HW: np.ndarray
    down_HW: np.ndarray
    edge_HW: np.ndarray
    x_HW: np.ndarray
    y_HW: np.ndarray


class Texture:
    """A mask to render: name, rgba_HW4 (uint8), shell (its mesh.Shell) and its smaller copies
    (level 0: itself, 1: half ...).

    In the copies colours are weighted by their alpha, so that what is transparent has none.
    """

    def __init__(self, name: str, rgba_HW4: np.ndarray, shape: dict[str, float], *, variant: int = 0):
        self.name, self.variant, self.rgba_HW4, self.shape = name, variant, rgba_HW4, shape
        self._levels = {}

    @functools.cached_property
    def shell(self) -> Shell:
        """How it lies on the canonical face."""
        return _shell(covered_nodes(self.rgba_HW4[..., 3]).tobytes(), tuple(sorted(self.shape.items())))

    def level(self, number: int) -> np.ndarray:
        """The texture at 1 / 2^number of its side, uint8 HW4, colours times alpha."""
        if number not in self._levels:
            if number == 0:
                alpha_HW1 = self.rgba_HW4[..., 3:].astype(np.uint16)
                colour_HW3 = ((self.rgba_HW4[..., :3] * alpha_HW1 + 127) // 255).astype(np.uint8)
                self._levels[0] = np.ascontiguousarray(np.dstack([colour_HW3, self.rgba_HW4[..., 3]]))
            else:
                side = TEXTURE_PX >> number
                self._levels[number] = cv2.resize(self.level(0), (side, side), interpolation=cv2.INTER_AREA)
        return self._levels[number]


def texture(kind: str, variant: int, *, seed: int) -> Texture:
    """The Texture of a row of KINDS; the same kind, variant and seed give the same one."""
    number = list(KINDS).index(kind)
    row = KINDS[kind]
    rng = np.random.default_rng([seed, number, variant])
    sheet, alpha_HW, strap_HW = _sheet(row.outline)
    rgb_HW3, strap_rgb = row.paint(sheet, rng)
    strap_HW1 = strap_HW[..., None] * (sheet.edge_HW < 0)[..., None]
    rgb_HW3 = rgb_HW3 * (1 - strap_HW1) + np.asarray(strap_rgb) * strap_HW1
    alpha_HW = np.maximum(alpha_HW, strap_HW)
    rgba_HW4 = np.dstack([np.clip(rgb_HW3, 0, 1), alpha_HW])
    return Texture(kind, (rgba_HW4 * 255).round().astype(np.uint8), row.shape, variant=variant)


class Wardrobe:
    """The textures of a run: of some kinds, and of a user's folder.
    `draw(rng)` is one of them, each name equally often.
    """

    def __init__(self, kinds: Sequence[str], templates: Sequence[Texture] = (), *, seed: int = 0):
        self.kinds, self.templates, self.seed = tuple(kinds), tuple(templates), seed
        self.names = (*self.kinds, *(template.name for template in self.templates))

    def draw(self, rng: np.random.Generator) -> Texture:
        """A Texture."""
        place, variant = int(rng.integers(len(self.names))), int(rng.integers(NUM_VARIANTS))
        return self.texture(place, variant)

    def texture(self, place: int, variant: int) -> Texture:
        """The texture of the name at this place."""
        if place >= len(self.kinds):
            return self.templates[place - len(self.kinds)]
        return _kept_texture(self.kinds[place], variant, self.seed)


@functools.lru_cache(maxsize=64)
def _kept_texture(kind, variant, seed):
    return texture(kind, variant, seed=seed)


def wardrobe(
    kinds: Sequence[str] | None = None,
    folder: pathlib.Path | str | None = None,
    *,
    seed: int = 0,
    where: str = "--kinds",
    textures_where: str = "--textures",
) -> Wardrobe:
    """The Wardrobe of these kinds (None: all, or none where there is a folder of templates).
    UserError for what is not known.

    where, textures_where: what the user gave them as, for errors.
    """
    if kinds is None:
        kinds = () if folder is not None else tuple(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"{where}: kind of mask '{kind}' is not known; {suggestion(str(kind), list(KINDS))}")
    if len(set(kinds)) < len(kinds):
        raise UserError(f"{where}: a kind is given twice in {', '.join(kinds)}")
    templates = load_templates(folder, where=textures_where) if folder is not None else ()
    if not kinds and not templates:
        raise UserError(f"{where}: no kind of mask is given; known: {', '.join(KINDS)}")
    if same := sorted({template.name for template in templates} & set(kinds)):
        raise UserError(f"{folder}/{same[0]}: a template and a kind of mask have the same name; rename the file")
    return Wardrobe(kinds, templates, seed=seed)


def load_templates(folder: pathlib.Path | str, *, where: str = "--textures") -> tuple[Texture, ...]:
    """The Textures of a folder, sorted by name. UserError where it has none, or one cannot be used, each named."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{where} {folder}: no such folder; expected one of RGBA images in the layout of --layout")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in TEMPLATE_SUFFIXES)
    if not files:
        raise UserError(
            f"{where} {folder}: holds no template; expected images ({', '.join(TEMPLATE_SUFFIXES)}) with alpha"
        )
    templates, wrong = [], []
    for path in files:
        try:
            templates.append(_template(path))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(
            f"{where}: {some(wrong[:1])}" + (f" (and {len(wrong) - 1} more of {len(files)})" if wrong[1:] else "")
        )
    names = [template.name for template in templates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"{where} {folder}: two templates are called {twice[0]}; their names without suffix must differ"
        )
    return tuple(templates)


def _template(path):
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'no image'}") from None
    if image is None:
        raise UserError(f"{path}: does not decode; expected an RGBA image of {TEXTURE_PX} x {TEXTURE_PX}")
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels != 4 or image.dtype != np.uint8:
        raise UserError(
            f"{path}: has {channels} channel(s) of {image.dtype}; expected RGBA of 8 bits, transparent where no mask is"
        )
    if image.shape[0] != image.shape[1]:
        raise UserError(
            f"{path}: is {image.shape[1]} x {image.shape[0]}; the layout is a square ({TEXTURE_PX} x {TEXTURE_PX})"
        )
    rgba_HW4 = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    if image.shape[0] != TEXTURE_PX:
        smaller = image.shape[0] > TEXTURE_PX
        rgba_HW4 = cv2.resize(
            rgba_HW4, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        )
    covered = float((rgba_HW4[..., 3] > 127).mean())
    if covered < MIN_COVERED:
        raise UserError(
            f"{path}: {100 * covered:.1f} % of it is opaque; expected a mask on at least {100 * MIN_COVERED:g} %"
        )
    if covered > 0.9:
        raise UserError(f"{path}: {100 * covered:.0f} % of it is opaque; expected transparency where no mask is")
    if not covered_nodes(rgba_HW4[..., 3]).any():
        raise UserError(f"{path}: nothing of it lies on the lower face; --layout FILE draws where that is")
    return Texture(path.stem, rgba_HW4, TEMPLATE_SHAPE)


def covered_nodes(alpha_HW: np.ndarray) -> np.ndarray:
    """Which nodes of the grid lie under the body of a mask, straps not counted."""
    body_HW = cv2.morphologyEx(
        (alpha_HW > 127).astype(np.uint8), cv2.MORPH_OPEN, np.ones((2 * STRAP_TEXELS + 1,) * 2, np.uint8)
    )
    x_G, y_G = np.clip((mesh.grid().layout_G2 * TEXTURE_PX).astype(int), 0, TEXTURE_PX - 1).T
    return body_HW[y_G, x_G] > 0


@functools.lru_cache(maxsize=64)
def _shell(covered, shape):
    return mesh.drape(np.frombuffer(covered, bool), **dict(shape))


def layout_guide() -> np.ndarray:
    """The layout with the mesh on it and the edges of the kinds, RGB HW3: what a template is drawn on."""
    canonical, scale = mesh.face(), 2 * TEXTURE_PX
    guide_HW3 = np.full((scale, scale, 3), 255, np.uint8)
    corner_T32 = (mesh.in_layout(canonical.uv_V2)[canonical.triangle_T3] * scale).round().astype(np.int32)
    cv2.polylines(guide_HW3, list(corner_T32), True, (190, 196, 204), 1, cv2.LINE_AA)
    low, high = mesh.grid().layout_G2.min(0) * scale, mesh.grid().layout_G2.max(0) * scale
    cv2.rectangle(guide_HW3, low.astype(int).tolist(), high.astype(int).tolist(), (37, 99, 201), 2)
    for kind in KINDS.values():
        cv2.polylines(
            guide_HW3, [(_polygon(kind.outline) * scale).round().astype(np.int32)], True, (190, 24, 60), 1, cv2.LINE_AA
        )
    texts = (
        "A template is this whole picture, of any size (square, RGBA), transparent but for the mask,",
        "which lies inside the blue frame. Red: the edges of zennas' own masks.",
    )
    for line, text in enumerate(texts):
        cv2.putText(guide_HW3, text, (20, 30 + 26 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (51, 65, 85), 1, cv2.LINE_AA)
    return guide_HW3


def write_layout(path: pathlib.Path | str) -> None:
    """Writes `layout_guide` as a picture. UserError where that cannot be."""
    path = pathlib.Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"--layout {path}: expected a file that ends in .png")
    if not path.parent.is_dir():
        raise UserError(f"--layout {path}: no folder {path.parent}")
    with explaining(path.parent):
        path.write_bytes(cv2.imencode(".png", cv2.cvtColor(layout_guide(), cv2.COLOR_RGB2BGR))[1].tobytes())


# --- where a texel lies on a mask


@functools.lru_cache(maxsize=32)
def _sheet(outline):
    """(Sheet, alpha_HW of the mask's body, alpha_HW of its straps)."""
    big, middle = TEXTURE_PX * SUPERSAMPLING, mesh.in_layout(np.array([[0.5, 0.0]]))[0, 0]
    polygon_N2 = _polygon(outline)
    body = np.zeros((big, big), np.uint8)
    cv2.fillPoly(body, [(polygon_N2 * big).round().astype(np.int32)], 255)
    strap = np.zeros((big, big), np.uint8)
    for line in outline.straps:
        half_N2 = mesh.in_layout(_curve(line, straight=False) * (-1, 1) + (0.5, 0))
        for line_N2 in (half_N2, half_N2 * (-1, 1) + (2 * middle, 0)):
            line_N2 = (line_N2 * big).round().astype(np.int32)
            cv2.polylines(strap, [line_N2], False, 255, round(outline.strap_texels * SUPERSAMPLING))
    size = (TEXTURE_PX, TEXTURE_PX)
    alpha_HW, strap_HW = (cv2.resize(layer, size, interpolation=cv2.INTER_AREA) / 255.0 for layer in (body, strap))
    inside_HW = cv2.distanceTransform((alpha_HW > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    outside_HW = cv2.distanceTransform((alpha_HW <= 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    y_HW, x_HW = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float64)
    away_HW = np.abs((x_HW + 0.5) / TEXTURE_PX - middle) / mesh.UV_SCALE
    top_N2, bottom_N2 = (_curve(line, straight=outline.straight) for line in (outline.top, outline.bottom))
    top_HW = np.interp(away_HW, top_N2[:, 0], top_N2[:, 1]) * mesh.UV_SCALE * TEXTURE_PX
    bottom_HW = np.interp(away_HW, bottom_N2[:, 0], bottom_N2[:, 1]) * mesh.UV_SCALE * TEXTURE_PX
    sheet = Sheet(
        across_HW=np.sign(x_HW + 0.5 - middle * TEXTURE_PX) * away_HW / max(top_N2[-1, 0], bottom_N2[-1, 0]),
        down_HW=(y_HW + 0.5 - top_HW) / np.maximum(bottom_HW - top_HW, 1.0),
        edge_HW=inside_HW - outside_HW,
        x_HW=x_HW,
        y_HW=y_HW,
    )
    return sheet, alpha_HW, strap_HW


def _curve(points, *, straight):
    """Points on the way through these, N2: along straight lines or a smooth curve (Catmull-Rom)."""
    point_K2 = np.array(points, float)
    if straight or len(point_K2) < 3:
        return point_K2
    padded = np.concatenate([2 * point_K2[:1] - point_K2[1:2], point_K2, 2 * point_K2[-1:] - point_K2[-2:-1]])
    if point_K2[0, 0] == 0:  # the middle of the face: level there, whatever comes beside it
        padded[0] = point_K2[1] * (-1, 1)
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, point_K2[-1:]])


def _polygon(outline):
    """The closed edge of a mask in the layout, N2."""
    top_N2, bottom_N2 = (_curve(line, straight=outline.straight) for line in (outline.top, outline.bottom))
    half_N2 = np.concatenate([top_N2, bottom_N2[::-1]])
    other_N2 = half_N2[::-1] * (-1, 1)
    return mesh.in_layout(np.concatenate([half_N2, other_N2]) * (-1, 1) + (0.5, 0))


KINDS = {name: MaskKind(Outline(**edge), paint, shape) for name, (edge, paint, shape) in KINDS_OF_PAINT.items()}
