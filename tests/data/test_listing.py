"""A folder and its tar hold the same: what is used, what is not and why, and who is who."""

import io
import os
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from zennas.data import listing
from zennas.data.images import decode
from zennas.data.left_out import LeftOut, line_of
from zennas.data.listing import IMAGE_SUFFIXES, walk
from zennas.data.sources import open_source
from zennas.records import UserError

IMAGE = cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))[1].tobytes()
JUNK = b"\x00\x05\x16\x07"


def lay(root, files):
    """Files at these paths below root: an image each, or what is given."""
    for path in files:
        content = files[path] if isinstance(files, dict) else IMAGE
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def packed(root, name="packed.tar"):
    """A tar of the folder, beside it."""
    path = root.with_name(name)
    with tarfile.open(path, "w") as tar:
        tar.add(root, arcname=root.name)
    return path


def held(source):
    """(identity, last name of an image) of all images, and the names of the identities."""
    names = list(source.identity_names)
    files = [source.name(image).rpartition("/")[2] for image in range(source.num_images)]
    return sorted((names[label], file) for label, file in zip(source.label_N, files, strict=True)), names


def counts(source):
    return {reason: num for reason, (num, _) in source.left_out.items()}


def both(root):
    """The source of a folder, which is what the source of its tar is."""
    folder, tar = open_source(root), open_source(packed(root))
    assert held(folder) == held(tar) and counts(folder) == counts(tar) and folder.notices[1:] == tar.notices[1:]
    return folder


TWO = ("Ada/1.png", "Ada/2.png", "Bob/1.png")


@pytest.mark.parametrize(
    ("junk", "num"),
    [
        (["Ada/._1.png", "Bob/._1.png"], 2),
        (["__MACOSX/Ada/._1.png", "__MACOSX/Ada/1.png"], 1),  # a folder counts once
        (["Ada/.ipynb_checkpoints/1-checkpoint.png", "Bob/.ipynb_checkpoints/1-checkpoint.png"], 2),
        (["@eaDir/1.png", "Ada/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg"], 2),
        ([".DS_Store", "Ada/Thumbs.db", "Bob/desktop.ini", ".git/objects/x.png"], 4),
        (["$RECYCLE.BIN/1.png", "lost+found/1.png", ".thumbnails/Ada/1.png"], 3),
    ],
)
def test_what_systems_leave_is_nobodys(tmp_path, junk, num):
    source = both(lay(lay(tmp_path / "set", TWO), dict.fromkeys(junk, JUNK)))
    assert held(source)[1] == ["Ada", "Bob"] and source.num_images == 3
    assert counts(source) == {"hidden or system files": num}
    assert len(source.notices) == 1 and source.notices[0].startswith(f"not used: {num} hidden or system files (")


def test_a_hidden_folder_above_the_data_hides_nothing(tmp_path):
    source = open_source(lay(tmp_path / ".cache" / "set", TWO))
    assert source.num_images == 3 and source.notices == []


def test_every_suffix_that_is_decoded_is_used(tmp_path):
    """Pillow writes what OpenCV must read under each of the names."""
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    kinds = {"jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}
    kinds |= {"pgm": "PPM", "pbm": "PPM", "pnm": "PPM"}
    for suffix in IMAGE_SUFFIXES:
        for name in (f"small{suffix}", f"LARGE{suffix.upper()}"):
            file = tmp_path / "set" / suffix[1:] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file, kinds.get(suffix[1:], suffix[1:].upper()))
    source = both(tmp_path / "set")
    assert source.num_images == 2 * len(IMAGE_SUFFIXES) and source.left_out == {}
    assert all(decode(source.read(number)).shape == (4, 4, 3) for number in range(source.num_images))


def test_what_is_no_image_is_counted_by_suffix(tmp_path):
    others = dict.fromkeys(["Ada/a.heic", "Ada/b.HEIC", "Bob/c.psd", "README", "Bob/x.txt"], b"?")
    source = both(lay(lay(tmp_path / "set", TWO), others))
    (told,) = source.left_out.items()
    assert told == ("files without an image's suffix", [5, [".heic 2", ".psd 1", ".txt 1", "no suffix 1"]])


def test_empty_files_are_counted(tmp_path):
    source = both(lay(lay(tmp_path / "set", TWO), {"Ada/3.png": b""}))
    assert source.num_images == 3 and counts(source) == {"empty files": 1}


def test_links_are_images_where_they_lead_to_one(tmp_path):
    root = lay(tmp_path / "set", TWO)
    os.link(root / "Ada/1.png", root / "Ada/hard.png")
    os.symlink("../Ada/2.png", root / "Bob/soft.png")
    os.symlink("soft.png", root / "Bob/softer.png")
    os.symlink("nowhere.png", root / "Bob/dead.png")
    os.symlink("itself.png", root / "Bob/itself.png")
    source = both(root)
    assert counts(source) == {"links that lead to no image": 2}
    assert {name for _, name in held(source)[0]} == {"1.png", "2.png", "hard.png", "soft.png", "softer.png"}
    tar = open_source(tmp_path / "packed.tar")
    assert all(tar.read(image) == IMAGE for image in range(tar.num_images))


def test_a_link_to_a_folder_is_followed_unless_it_leads_back(tmp_path):
    root = lay(tmp_path / "set", TWO)
    lay(tmp_path / "elsewhere", ["1.png"])
    os.symlink(tmp_path / "elsewhere", root / "Cas")
    os.symlink("..", root / "Bob/back")
    source = open_source(root)
    assert held(source)[1] == ["Ada", "Bob", "Cas"] and source.num_images == 4
    assert counts(source) == {"links that lead to no image": 1}


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    root, scandir = lay(tmp_path / "set", TWO), os.scandir

    def refusing(path):
        if os.fspath(path).endswith("Bob"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refusing)
    left_out = LeftOut()
    assert [listed.folder for listed in walk(root, left_out)] == ["", "Ada"]
    assert line_of(left_out.plain()) == "not used: 1 files that cannot be read (Bob/: Permission denied)"


def test_images_elsewhere_than_the_people_s_folders_are_counted(tmp_path):
    files = [*TWO, "Ada/3.png", "loose-1.png", "loose-2.png", "Ada/old/1.png", "Bob/old/1.png", "Cas/x/y/1.png"]
    source = both(lay(tmp_path / "set", files))
    assert held(source)[1] == ["Ada", "Bob", "Cas"] and source.num_images == 4 and source.num_empty_identities == 1
    assert counts(source) == {"images in no identity's folder": 2, "images deeper than the identities' folders": 3}
    assert "Ada/old/1.png" in source.notices[0]


def test_an_empty_folder_counts_the_same_in_a_tar(tmp_path):
    (lay(tmp_path / "set", TWO) / "Abe").mkdir()
    source = both(tmp_path / "set")
    assert held(source)[1] == ["Abe", "Ada", "Bob"] and source.num_empty_identities == 1


def test_a_folder_in_a_folder_is_opened_as_its_tar_is(tmp_path):
    assert held(both(lay(tmp_path / "set", [f"lfw/faces/{path}" for path in TWO])))[1] == ["Ada", "Bob"]


NUMBERED = ("000/1.png", "001/1.png", "002/1.png")


def test_people_of_two_sets_under_one_name_stay_two(tmp_path):
    source = both(lay(tmp_path / "set", [f"{part}/{path}" for part in ("casia", "asian") for path in NUMBERED]))
    paths = [f"{part}/{number}" for part in ("asian", "casia") for number in ("000", "001", "002")]
    assert held(source)[1] == paths
    assert source.notices == [
        "3 folder names stand in several places; each such folder is an identity of its own, named by its path: "
        "asian/000, casia/000, asian/001, casia/001, asian/002 and 1 more"
    ]


def a_tar_each(folder, content):
    folder.mkdir()
    for name, paths in content.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for path in paths:
                member = tarfile.TarInfo(path)
                member.size = len(IMAGE)
                tar.addfile(member, io.BytesIO(IMAGE))
    return folder


@pytest.mark.parametrize("above", ["casia/", "sets/casia/"])
def test_a_tar_each_with_a_folder_above_the_people(tmp_path, above):
    """Also where the tars are not of one depth."""
    content = {"a": [above + path for path in NUMBERED], "b": ["asian/" + path for path in NUMBERED]}
    source = open_source(a_tar_each(tmp_path / "set", content))
    assert (source.num_images, source.num_identities) == (6, 6) and len(source.notices) == 1


def test_names_of_two_tars_that_are_the_same_are_refused(tmp_path):
    folder = a_tar_each(tmp_path / "set", {"asian": NUMBERED, "casia": NUMBERED})
    with pytest.raises(UserError, match=r"asian.tar and casia.tar both hold 00\d/1.png \(3 such names\): shards"):
        open_source(folder)


def test_shards_of_one_data_set_share_their_people(tmp_path):
    content = {"0": ["s/Zoe/1.png", "s/Zoe/2.png", "s/Ada/1.png"], "1": ["s/Zoe/3.png"], "2": ["s/Zoe/old/1.png"]}
    source = open_source(a_tar_each(tmp_path / "set", content))
    assert list(source.identity_names) == ["Ada", "Zoe"] and source.label_N.tolist() == [1, 1, 0, 1]
    assert counts(source) == {"images deeper than the identities' folders": 1}
    assert source.notices[1:] == ["1 folders lie in several shards, an identity each: s/Zoe"]


def test_a_member_that_was_packed_again_counts_once(tmp_path):
    root = lay(tmp_path / "set", TWO)
    path = packed(root)
    newer = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    (root / "Ada/1.png").write_bytes(newer)
    with tarfile.open(path, "a") as tar:
        tar.add(root / "Ada/1.png", arcname="set/Ada/1.png")
    source = open_source(path)
    assert counts(source) == {"members that a later one of the same name replaces": 1}
    assert {source.name(image): source.read(image) for image in range(3)}["set/Ada/1.png"] == newer


def test_what_lies_beside_shards_or_records_is_said(tmp_path):
    folder = a_tar_each(tmp_path / "set", {"0": ["Zoe/1.png"], "1": ["Ada/1.png"]})
    (folder / "._0.tar").write_bytes(JUNK)  # no shard of the user's
    (folder / "2.TAR").write_bytes((folder / "0.tar").read_bytes().replace(b"Zoe/1.png", b"Zoe/9.png"))
    (folder / "3.tar.gz").write_bytes(b"?")
    lay(folder, ["Bob/1.png"])
    with pytest.raises(UserError, match=r"2.TAR: not a plain tar"):  # the name is in its checksum
        open_source(folder)
    (folder / "2.TAR").unlink()
    source = open_source(folder)
    assert source.left_out == {"files and folders beside what is read": [2, ["3.tar.gz", "Bob"]]}
    (folder / "Cas").mkdir()  # after the index was made
    assert open_source(folder).left_out == {"files and folders beside what is read": [3, ["3.tar.gz", "Bob", "Cas"]]}


def test_what_a_command_wrote_beside_its_images_is_not_counted_against_the_user(tmp_path):
    ours = {"run.json": JUNK, "report.html": JUNK, "align.log": JUNK, "faces.parquet": JUNK, "passed-over.csv": JUNK}
    out = lay(tmp_path / "out", {name: IMAGE for name in TWO} | ours | {"notes.txt": JUNK, "Ada/report.html": JUNK})
    assert open_source(out).left_out == {"files without an image's suffix": [2, [".html 1", ".txt 1"]]}
    (out / "run.json").unlink()
    assert counts(open_source(out)) == {"files without an image's suffix": 6}
    shards = lay(tmp_path / "shards", ours | {"notes.txt": JUNK})
    packed(lay(tmp_path / "people", TWO)).rename(shards / "1.tar")
    assert open_source(shards).left_out == {"files and folders beside what is read": [1, ["notes.txt"]]}
