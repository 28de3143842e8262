"""Sightings: crops of people, whom each shows and which camera took it, whatever the layout they are published in."""

# N crops, M of them

import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.data.left_out import LeftOut, line_of
from zennas.records import UserError

TRAIN, QUERY, GALLERY = ROLES = ("train", "query", "gallery")
JUNK = -1  # a box that shows nobody well: passed over in ranking
DISTRACTOR = -2  # somebody whom nobody asks for: a wrong answer
NOTHING = {TRAIN: "nobody is there to train on", QUERY: "nobody is asked for", GALLERY: "the gallery is empty"}
NOBODY = "images of nobody: junk and distractors, which never train and are not asked for"
NAMELESS = "images whose names say no person and camera"
NO_CAMERA = -1
CAMERA = re.compile(r"(?:^|[_-])c(?:am)?(\d+)")  # as in 0002_c1s1_000451_03.jpg


class Sightings(NamedTuple):
    """N crops of people."""

    root: pathlib.Path  # a folder, or a file that holds images
    path_N: list[str]  # below it, parted by '/'
    label_N: np.ndarray  # int64: a place in `people`, JUNK or DISTRACTOR
    camera_N: np.ndarray  # int64; NO_CAMERA where none is known
    role_N: np.ndarray  # of ROLES
    people: list[str]  # as the set calls them
    left_out: dict[str, list] = {}  # as LeftOut.plain
    notices: Sequence[str] = ()
    single_shot: bool = False  # whether the gallery is to have one image of each person, drawn
    cameras: Sequence[str] = ()  # as the set calls them, by their numbers; nothing where they have numbers alone

    def camera_name(self, crop: int) -> str:
        """What the set calls the camera that took a crop; "" where none is known."""
        camera = int(self.camera_N[crop])
        return "" if camera == NO_CAMERA else self.cameras[camera] if self.cameras else str(camera)

    @classmethod
    def of(
        cls,
        root: pathlib.Path,
        rows: Iterable[tuple[str, str | int, int, str]],
        left_out: LeftOut,
        notices: Sequence[str] = (),
        *,
        single_shot: bool = False,
    ) -> "Sightings":
        """The Sightings of rows (path, person's name or JUNK or DISTRACTOR, camera, role), in their order.

        Junk and distractors are kept in the gallery alone; elsewhere they are counted as left out.
        """
        kept = []
        for path, person, camera, role in rows:
            if isinstance(person, int) and role != GALLERY:
                left_out.add(NOBODY, path)
            else:
                kept.append((path, person, camera, role))
        people = sorted({person for _, person, _, _ in kept if isinstance(person, str)})
        place = {person: number for number, person in enumerate(people)} | {JUNK: JUNK, DISTRACTOR: DISTRACTOR}
        return cls(
            root,
            [row[0] for row in kept],
            np.array([place[row[1]] for row in kept], np.int64),
            np.array([row[2] for row in kept], np.int64),
            np.array([row[3] for row in kept], np.str_),
            people,
            left_out.plain(),
            notices,
            single_shot,
        )


def person_and_camera(name: str) -> tuple[str | int, int] | None:
    """(person, camera) of a file that is named as Market-1501 and DukeMTMC-reID name theirs; None where it is not.

    >>> person_and_camera("0002_c1s1_000451_03.jpg"), person_and_camera("0005_c2_f0046985.jpg")
    (('0002', 1), ('0005', 2))
    >>> person_and_camera("-1_c3s1_000451_03.jpg"), person_and_camera("0000_c3s1_000451_03.jpg")
    ((-1, 3), (-2, 3))
    >>> person_and_camera("Thumbs.jpg") is None
    True
    """
    match = re.match(r"(-?\d+)_c(\d+)", name)
    if match is None:
        return None
    number = int(match[1])
    return JUNK if number < 0 else DISTRACTOR if number == 0 else match[1], int(match[2])


def camera_in(name: str) -> int | None:
    """The camera in the name of a file, or None.

    >>> camera_in("c3_0001.jpg"), camera_in("Ada-cam12-7.png"), camera_in("0001.jpg")
    (3, 12, None)
    """
    match = CAMERA.search(os.path.basename(name))
    return int(match[1]) if match else None


def check_roles(sightings: Sightings, roles: Sequence[str], where: dict[str, str]) -> Sightings:
    """The Sightings; UserError where one of the roles has no image. where: role -> what should hold its images."""
    for role in roles:
        if not (sightings.role_N == role).any():
            line = line_of(sightings.left_out)
            aside = f" ({line})" if line else ""
            raise UserError(f"{where[role]}: holds no image of a person{aside}: {NOTHING[role]}")
    return sightings
