"""Sets of people as they are published, made of small drawn crops."""

import cv2
import h5py
import numpy as np
import scipy.io


def crop(number, *, height=12, width=6):
    """An RGB crop, another one for every number."""
    return np.random.default_rng(number).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def png(number, **size):
    return cv2.imencode(".png", crop(number, **size)[..., ::-1])[1].tobytes()


def write(root, names):
    """Files of these names below root, each a crop of its own."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


MARKET = [
    *("bounding_box_train/0002_c1s1_000451_03.png", "bounding_box_train/0002_c2s1_000001_01.png"),
    *("bounding_box_train/0007_c3s3_000001_01.png", "bounding_box_train/-1_c1s1_000001_01.png"),
    *("bounding_box_train/0000_c1s1_000001_01.png", "bounding_box_train/holiday.png"),
    *("query/0003_c1s1_000001_00.png", "query/0005_c2s1_000001_00.png"),
    *("bounding_box_test/0003_c1s1_000002_01.png", "bounding_box_test/0003_c4s1_000001_01.png"),
    *("bounding_box_test/0005_c5s1_000001_01.png", "bounding_box_test/-1_c4s1_000001_01.png"),
    *("bounding_box_test/0000_c4s1_000001_01.png", "bounding_box_test/0000_c6s1_000001_02.png"),
    "bounding_box_test/deeper/0003_c6s1_000001_01.png",
]


def as_market(root):
    write(root, MARKET)
    (root / "query" / "Thumbs.db").write_bytes(b"x")
    (root / "bounding_box_test" / "README.txt").write_bytes(b"x")
    return root


def as_duke(root):
    return write(
        root,
        [
            *("bounding_box_train/0001_c2_f0046182.png", "bounding_box_train/0001_c5_f0046985.png"),
            *("query/0005_c2_f0046985.png", "bounding_box_test/0005_c5_f0051341.png"),
            "bounding_box_test/0006_c2_f0051341.png",
        ],
    )


MSMT17 = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0008_0.png 0", "0001/0001_000_05_0303noon_0008_0.png 1"],
    "list_val.txt": ["0000/0000_009_02_0303morning_0010_0.png 0"],
    "list_query.txt": ["0000/0000_001_03_0302afternoon_0008_0.png 0"],
    "list_gallery.txt": [
        "0000/0000_002_04_0302afternoon_0009_0.png 0",
        "0001/0001_003_11_0302afternoon_0009_0.png 1",
    ],
}


def as_msmt17(root, *, train="train", test="test", lists=MSMT17):
    for name, lines in lists.items():
        folder = train if name in ("list_train.txt", "list_val.txt") else test
        write(root, [f"{folder}/{line.split()[0]}" for line in lines])
        (root / name).write_text("\n".join(lines) + "\n")
    return root


# The people of each of five pairs of cameras; columns (from 0) in which an image is.
CUHK03 = [[[0, 1, 5], [0, 5, 6], [4, 9]], [[0, 5]], [[1, 8]], [[2, 7]], [[3]]]
TESTED = [(1, 2), (2, 1), (3, 1)]


def number_of(boxes, group, person, column):
    """The crop that lies there."""
    return 10_000 * (boxes == "labeled") + 1000 * group + 10 * person + column


def as_cuhk03(root, cells_of=CUHK03):
    """cuhk-03.mat as MATLAB 7.3 writes it, and the lists of the new protocol: the people of the first two groups are
    asked for, the others train. cells_of: as CUHK03 above.
    """
    root.mkdir(parents=True)
    with h5py.File(root / "cuhk-03.mat", "w") as file:
        cells = file.create_group("#refs#")

        def kept(value, *, empty=False):
            data = cells.create_dataset(f"cell{len(cells)}", data=value)
            if empty:
                data.attrs["MATLAB_empty"] = np.uint8(1)
            return data.ref

        for boxes in ("detected", "labeled"):
            groups = []
            for group, people in enumerate(cells_of, 1):
                table = np.empty((10, len(people)), h5py.ref_dtype)
                for person, columns in enumerate(people, 1):
                    for column in range(10):
                        pixels = crop(number_of(boxes, group, person, column))
                        is_there = column in columns
                        value = pixels.T if is_there else np.zeros(2, np.uint64)
                        table[column, person - 1] = kept(value, empty=not is_there)
                cell = cells.create_dataset(f"cell{len(cells)}", data=table, dtype=h5py.ref_dtype)
                groups.append(cell.ref)
            file.create_dataset(boxes, data=np.array([groups], h5py.ref_dtype), dtype=h5py.ref_dtype)
        splits = [kept(np.array(TESTED if split == 3 else TESTED[:1], float).T) for split in range(20)]
        file.create_dataset("testsets", data=np.array([splits], h5py.ref_dtype), dtype=h5py.ref_dtype)
    listed = [
        (f"{group}_{person:03d}_{1 + (column > 4)}_{column + 1:02d}.png", group, person, column)
        for group, people in enumerate(cells_of, 1)
        for person, columns in enumerate(people, 1)
        for column in columns
    ]
    people = sorted({entry[1:3] for entry in listed})
    tested = [place for place, (_, group, *_) in enumerate(listed) if group <= 2]
    for boxes in ("detected", "labeled"):
        config = {
            "filelist": np.array([[name] for name, *_ in listed], object),
            "labels": np.array([[people.index(entry[1:3]) + 1] for entry in listed]),
            "train_idx": np.array([[place + 1 for place in range(len(listed)) if place not in tested]]).T,
            "query_idx": np.array([[place + 1 for place in tested if listed[place][3] in (0, 4)]]).T,
            "gallery_idx": np.array([[place + 1 for place in tested if listed[place][3] not in (0, 4)]]).T,
        }
        scipy.io.savemat(root / f"cuhk03_new_protocol_config_{boxes}.mat", config)
    return root


OWN = [
    *("train/Ada/c1_1.png", "train/Ada/1.png", "train/Zoe/17_cam2.png", "train/stray.png"),
    *("query/Max/c1_1.png", "gallery/Max/c2_1.png", "gallery/Max/c1_2.png", "gallery/Eve/c2_1.png"),
]


def as_own_folders(root):
    return write(root, OWN)


ROWS = [
    ("a/1.png", "Ada", "door", "train"),
    ("a/2.png", "Ada", "yard", "train"),
    ("b/1.png", "-1", "yard", "train"),
    ("q/1.png", "Max", "door", "query"),
    ("g/1.png", "Max", "yard", "gallery"),
    ("g/2.png", "Eve", "yard", "gallery"),
    ("g/3.png", "-1", "yard", "gallery"),
]


def as_table(root, rows=ROWS, columns=("image", "label", "camera", "role")):
    write(root, [row[0] for row in rows])
    (root / "people.csv").write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]) + "\n")
    return root / "people.csv"


def laid_out(root, layout, rows):
    """Where a set lies that has an image for each row (person from 1, camera, role), in a layout that names roles."""
    numbered = [(person, camera, role, number) for number, (person, camera, role) in enumerate(rows, 1)]
    if layout == "market":
        folder = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
        return write(
            root,
            [f"{folder[role]}/{who:04d}_c{camera}s1_{number:06d}_01.png" for who, camera, role, number in numbered],
        )
    if layout == "msmt17":
        lists = {}
        for who, camera, role, number in numbered:
            line = f"{who:04d}/{who:04d}_{number:03d}_{camera:02d}_0303morning_0008_0.png {who}"
            lists.setdefault(f"list_{role}.txt", []).append(line)
        return as_msmt17(root, lists=lists)
    if layout == "folders":
        for role in ("query", "gallery"):
            (root / role).mkdir(parents=True)
        return write(root, [f"{role}/{who:04d}/c{camera}_{number}.png" for who, camera, role, number in numbered])
    assert layout == "table", layout
    return as_table(root, [(f"{number}.png", who, camera, role) for who, camera, role, number in numbered])
