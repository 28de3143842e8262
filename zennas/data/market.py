"""Market-1501's folders, in which DukeMTMC-reID and many people's own data lie, too."""

import pathlib
import re
from collections.abc import Iterator, Sequence

from zennas.data.left_out import DEEPER, LeftOut
from zennas.data.listing import walk
from zennas.data.sightings import GALLERY, NAMELESS, NOTHING, QUERY, TRAIN, Sightings, check_roles, person_and_camera
from zennas.records import UserError

FOLDER = {TRAIN: "bounding_box_train", QUERY: "query", GALLERY: "bounding_box_test"}
DUKE = re.compile(r"\d+_c\d+_f\d+")
WITHDRAWN = (
    "these are named as DukeMTMC-reID's: its authors withdrew it in 2019, for people were filmed outside of what their "
    "university had approved; zennas reads it and offers it nowhere"
)


def is_market(path: pathlib.Path) -> bool:
    """Whether a folder holds bounding_box_train or bounding_box_test, or is one of them."""
    is_part = path.name in (FOLDER[TRAIN], FOLDER[GALLERY]) and path.is_dir()
    return is_part or any((path / FOLDER[role]).is_dir() for role in (TRAIN, GALLERY))


def read_market(path: pathlib.Path, roles: Sequence[str]) -> Sightings:
    """The Sightings of these roles in a folder as Market-1501's: PPPP_cCsS_FFFFFF_BB.jpg, or PPPP_cC_... at least.

    -1 is junk; 0000 are distractors. UserError where a role has no folder or no image, or where the path is
    the folder of another role: its images are not those that are asked for.
    Source: Zheng et al. 2015, Scalable Person Re-identification; DukeMTMC-reID: Zheng et al. 2017, arXiv:1701.07717.
    """
    is_root = any((path / folder).is_dir() for folder in FOLDER.values())
    root = path if is_root else path.parent
    own = None if is_root else next(role for role, folder in FOLDER.items() if folder == path.name)
    if own is not None and own not in roles:
        wanted = " and ".join(FOLDER[role] for role in roles)
        raise UserError(f"{path}: is the folder of the {own} images; expected {root}, which holds {wanted}")
    for role in roles:
        if not (root / FOLDER[role]).is_dir():
            raise UserError(f"{root}: holds no folder {FOLDER[role]}: {NOTHING[role]}")
    left_out = LeftOut()
    rows = [row for role in roles for row in _rows(root, role, left_out)]
    notices = [WITHDRAWN] if rows and all(DUKE.search(name.rpartition("/")[2]) for name, *_ in rows) else []
    sightings = Sightings.of(root, rows, left_out, notices)
    return check_roles(sightings, roles, {role: f"{root / FOLDER[role]}" for role in roles})


def _rows(root: pathlib.Path, role: str, left_out: LeftOut) -> Iterator[tuple[str, str | int, int, str]]:
    folder = FOLDER[role]
    for listed in walk(root / folder, left_out):
        for name in listed.names:
            seen = person_and_camera(name)
            if listed.folder:
                left_out.add(DEEPER, f"{folder}/{listed.folder}/{name}")
            elif seen is None:
                left_out.add(NAMELESS, f"{folder}/{name}")
            else:
                yield f"{folder}/{name}", *seen, role
