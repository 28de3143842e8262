"""A sheet of faces with all eight masks at several poses, each above the same mask pasted flat.

    python experiments/masks/figure.py                              # figure.png beside this file: a face that is
    nobody's python experiments/masks/figure.py --real FACES --out FOLDER    # real faces, which stay out of the
    repository

In figure.png every line of faces differs in pose and light. Landmarks are the network's, as in any use.
"""

import argparse
import pathlib

import cv2
import numpy as np
from pasting import pasted

from zennas.data.images import decode
from zennas.data.sources import open_source
from zennas.mask import mesh
from zennas.mask.landmarks import ALIGNED, AUTO, Landmarker
from zennas.mask.render import masked
from zennas.mask.synthetic import Scene, synthetic_face
from zennas.mask.textures import KINDS, wardrobe

HERE = pathlib.Path(__file__).parent
SHOWN_PX, HEAD_PX = 128, 26
SCENES = (
    Scene(),
    Scene(yaw_deg=28, light_3=(0.9, 0.4, 0.6), ambient=0.25),
    Scene(yaw_deg=-36, pitch_deg=4, light_3=(-0.8, 0.3, 0.5), ambient=0.3, background=(92, 84, 80)),
    Scene(pitch_deg=14, light_3=(0, 1, 0.6), ambient=0.35, skin=0.62, background=(182, 178, 170)),
    Scene(yaw_deg=12, pitch_deg=-14, roll_deg=9, brightness=0.5, light_3=(0.6, 0.3, 0.8), background=(120, 96, 74)),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=pathlib.Path, help="faces in any layout that zennas reads")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the sheet of real faces")
    parser.add_argument("--faces", type=int, default=24, help="real faces on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if (arguments.real is None) != (arguments.out is None):
        parser.error("--real and --out go together: real faces go into a folder of your own")
    if arguments.real is None:
        faces = [synthetic_face(scene, image_px=224)[0] for scene in SCENES]
        save(HERE / "figure.png", sheet(faces, ALIGNED, arguments.seed))
        return
    if arguments.out.resolve().is_relative_to(HERE.parent.parent.resolve()):
        parser.error(f"--out {arguments.out}: lies in the repository, where no real face belongs")
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = open_source(arguments.real)
    chosen = np.random.default_rng(arguments.seed).choice(source.num_images, arguments.faces, replace=False)
    faces = [decode(source.read(int(image))) for image in chosen]
    save(arguments.out / "sheet.png", sheet(faces, AUTO, arguments.seed))


def sheet(faces, look, seed):
    """The picture of the faces, one after another: rendered masks, and below them pasted ones."""
    dressing, landmarker, rows = wardrobe(seed=seed), Landmarker(look), [heading(["", *KINDS])]
    for number, image_HW3 in enumerate(faces):
        found = landmarker.find(image_HW3)
        if found.point_V3 is None:
            print(f"face {number}: {found.why}")
            continue
        pose = mesh.fit_pose(found.point_V3)
        said = f"yaw {pose.yaw_deg:.0f}, pitch {pose.pitch_deg:.0f}, roll {pose.roll_deg:.0f}"
        rendered, flat = [image_HW3], [np.full_like(image_HW3, 255)]
        for kind in range(len(KINDS)):
            texture = dressing.texture(kind, number % 6)
            rng = np.random.default_rng([seed, number, kind])
            rendered.append(masked(image_HW3, found.point_V3, texture, rng).image_HW3)
            flat.append(pasted(image_HW3, found.point_V3, texture)[0])
        rows += [row(rendered), row(flat, f"pasted ({said})")]
    return np.concatenate(rows)


def row(images, text=""):
    """Images side by side at one size; text: what stands in the first, which is blank."""
    shown = [cv2.resize(one, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA) for one in map(square, images)]
    for line, part in enumerate(text.replace(" (", "\n(").replace(", ", ",\n").splitlines()):
        place = (12, 50 + 20 * line)
        cv2.putText(shown[0], part, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (51, 65, 85), 1, cv2.LINE_AA)
    return np.concatenate(shown, axis=1)


def square(image_HW3):
    """Its largest middle square."""
    height, width = image_HW3.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image_HW3[top : top + side, left : left + side]


def heading(names):
    """A line of the names of the columns."""
    line = np.full((HEAD_PX, SHOWN_PX * len(names), 3), 255, np.uint8)
    for number, name in enumerate(names):
        place = (number * SHOWN_PX + 8, 18)
        cv2.putText(line, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (51, 65, 85), 1, cv2.LINE_AA)
    return line


def save(path, image_HW3):
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), settings)[1].tobytes())
    print(f"written: {path}")


if __name__ == "__main__":
    main()
