import io
import json
import stat
import struct
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from zennas.records import UserError
from zennas.submit import given
from zennas.submit.given import copy_images, find_images, read_model

CONTENT = b"the network"


def zip_of(path, members, compression=zipfile.ZIP_DEFLATED):
    """A zip of [(ZipInfo or name, content)], names as they are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def as_mode(name, mode):
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, mode << 16
    return member


# --- files and folders


def test_a_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.onnx").write_bytes(CONTENT)
    assert read_model(tmp_path / "a.onnx") == (CONTENT, str(tmp_path / "a.onnx"), ())


def test_of_a_folder_the_last_by_name_is_taken_as_the_checker_does(tmp_path):
    for name in ("b.onnx", "a.onnx", "B.onnx", "z.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "zz").mkdir()
    (tmp_path / "zz" / "z.onnx").write_bytes(b"deeper")
    found = read_model(tmp_path)
    assert found.onnx_bytes == b"b.onnx" and found.others == ("B.onnx", "a.onnx", "z.txt")


def test_of_a_training_its_model_is_taken(tmp_path):
    for name in ("model.onnx", "zzz.onnx", "network.pt"):
        (tmp_path / name).write_bytes(name.encode())
    state = {"format": 1, "settings": {}, "finished_with": {"verify": []}}
    (tmp_path / "run.json").write_text(json.dumps(state))
    assert read_model(tmp_path)[::2] == (b"model.onnx", ())
    (tmp_path / "run.json").write_text(json.dumps(state | {"finished_with": None}))
    with pytest.raises(UserError, match="has not come to its end"):
        read_model(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "settings": {}}))  # a search's
    assert read_model(tmp_path).onnx_bytes == b"zzz.onnx"


@pytest.mark.parametrize("name", ["network.pt", "backbone.pth", "last.ckpt", "teacher.pt2"])
def test_a_checkpoint_alone_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"a checkpoint, which no challenge takes; give the model\.onnx"):
        read_model(tmp_path / name)


def test_a_folder_of_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "step-000000010").mkdir()
    (tmp_path / "step-000000010" / "common.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="give the folder of the training"):
        read_model(tmp_path / "step-000000010")


@pytest.mark.parametrize("files", [(), ("notes.txt",)])
def test_a_folder_without_a_network_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds no \*\.onnx at its top.*accepted: an ONNX file, a folder or a zip"):
        read_model(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--model .*nowhere\.onnx: cannot be read: No such file"):
        read_model(tmp_path / "nowhere.onnx")


# --- zips


def test_a_zip_that_the_challenge_takes(tmp_path):
    found = read_model(zip_of(tmp_path / "mine.zip", [("model.onnx", CONTENT)]))
    assert found == (CONTENT, f"{tmp_path / 'mine.zip'}, member model.onnx", ())


def test_of_a_zip_the_last_at_its_root_is_taken(tmp_path):
    members = [("b.onnx", CONTENT), ("a.onnx", b"a"), ("more/", b""), ("more/z.onnx", b"z"), ("readme", b"")]
    found = read_model(zip_of(tmp_path / "mine.zip", members))
    assert found.onnx_bytes == CONTENT and found.others == ("a.onnx", "more/z.onnx", "readme")


HOSTILE = {
    "absolute": ("/tmp/model.onnx", "an absolute path"),
    "backslash first": ("\\model.onnx", "an absolute path"),
    "parent": ("../model.onnx", "leaves the folder"),
    "parent within": ("a/../../model.onnx", "leaves the folder"),
    "parent of windows": ("a\\..\\model.onnx", "leaves the folder"),
    "drive": ("C:model.onnx", "a drive letter"),
    "drive and path": ("c:/model.onnx", "a drive letter"),
    "backslash": ("a\\model.onnx", "a name that systems read differently"),
    "new line": ("model\n.onnx", "a name that systems read differently"),
    "link": (as_mode("model.onnx", stat.S_IFLNK | 0o777), "a link"),
    "pipe": (as_mode("model.onnx", stat.S_IFIFO | 0o666), "neither a file nor a folder"),
    "device": (as_mode("model.onnx", stat.S_IFCHR | 0o666), "neither a file nor a folder"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_refused_and_nothing_is_written(tmp_path, name):
    member, reason = HOSTILE[name]
    path = zip_of(tmp_path / "mine.zip", [("good.onnx", CONTENT), (member, CONTENT)])
    with pytest.raises(UserError, match=r"^--model ") as refused:
        read_model(path)
    assert reason in str(refused.value) and "member '" in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.zip"]


def test_a_name_with_a_zero_byte_is_refused(tmp_path):
    """zipfile cuts it there: model.onnx\\0.exe would pass for model.onnx."""
    path = zip_of(tmp_path / "mine.zip", [("model.onnx#exe", CONTENT)])
    path.write_bytes(path.read_bytes().replace(b"onnx#exe", b"onnx\0exe"))
    with pytest.raises(UserError, match=r"'model\.onnx\\x00exe' is a name that systems read differently"):
        read_model(path)


def test_an_encrypted_member_is_refused(tmp_path):
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", CONTENT)])
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"member 'model\.onnx' is encrypted"):
        read_model(path)


def test_the_same_name_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zip_of(tmp_path / "mine.zip", [("model.onnx", CONTENT), ("model.onnx", b"another")])
    with pytest.raises(UserError, match=r"'model\.onnx' is there twice"):
        read_model(path)


def test_a_member_that_unpacks_to_hundreds_of_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(given, "MIN_SUSPECT", 2**20)
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", CONTENT), ("more/bomb", bytes(2 * 2**20))])
    with pytest.raises(UserError, match=r"member 'more/bomb' unpacks to \d+ times its size; 200 times are allowed"):
        read_model(path)
    noise = np.random.default_rng(0).bytes(2 * 2**20)
    assert read_model(zip_of(path, [("model.onnx", noise)])).onnx_bytes == noise
    assert read_model(zip_of(path, [("model.onnx", bytes(2**20))])).onnx_bytes == bytes(
        2**20
    )  # small enough to be harmless


def test_more_than_memory_holds_is_refused_by_what_the_zip_declares(tmp_path):
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", CONTENT), ("b", b"b"), ("c", b"c")])
    content = path.read_bytes()
    place = 0
    for _ in range(3):  # the central directory's uncompressed sizes: 3 x 1.5 GiB
        place = content.index(b"PK\x01\x02", place) + 24
        content = content[:place] + struct.pack("<I", 3 * 2**29) + content[place + 4 :]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"4\.5 GiB unpacked, most of it member 'model\.onnx'; 4 GiB are allowed"):
        read_model(path)


def test_a_size_that_is_a_lie_is_a_damaged_zip(tmp_path):
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", bytes(100_000))])
    content = path.read_bytes()
    place = content.index(b"PK\x01\x02") + 24
    path.write_bytes(content[:place] + struct.pack("<I", 10) + content[place + 4 :])
    with pytest.raises(UserError, match="a damaged zip"):
        read_model(path)


def test_a_damaged_zip_is_refused(tmp_path):
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", np.random.default_rng(0).bytes(1000))])
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    with pytest.raises(UserError, match="a damaged zip, or one that nobody can read: Bad CRC-32"):
        read_model(path)


COMPRESSIONS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_zip_that_is_damaged_anywhere_is_refused_or_read_as_it_was(tmp_path, compression):
    """Each byte in turn, with other bits: of the headers, and of what each decompressor takes for its own."""
    content = np.random.default_rng(0).bytes(100) + bytes(200)
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", content)], COMPRESSIONS[compression])
    assert read_model(path).onnx_bytes == content
    whole, refused = path.read_bytes(), []
    for place in range(len(whole)):
        for bits in (1, 0x10, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            try:
                found = read_model(path)
            except UserError as error:
                refused.append(str(error))
            else:  # no zip any more, and taken for a network; or a byte that nobody needs, such as the date's
                assert found.onnx_bytes in (content, path.read_bytes())
    assert all(one.startswith("--model ") for one in refused)
    assert sum("a damaged zip" in one for one in refused) > 100


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_member_with_a_hole_is_refused(tmp_path, compression):
    content = np.random.default_rng(0).bytes(1000)
    path = zip_of(tmp_path / "mine.zip", [("model.onnx", content)], COMPRESSIONS[compression])
    whole = bytearray(path.read_bytes())
    whole[60:200] = bytes(140)  # of the member's content, behind its header of 40 bytes
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"^--model .*mine\.zip: a damaged zip, or one that nobody can read: "):
        read_model(path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], r"holds no \*\.onnx at its top"),
        ([("readme", b"")], r"holds no \*\.onnx at its top"),
        ([("out/model.onnx", b"")], r"where the checker looks; 'out/model\.onnx' lies deeper"),
    ],
)
def test_a_zip_without_a_network_at_its_root_is_refused(tmp_path, members, said):
    with pytest.raises(UserError, match=said):
        read_model(zip_of(tmp_path / "mine.zip", members))


# --- images


def test_images_are_found_wherever_they_lie(tmp_path, photographs):
    tar = tmp_path / "more.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(photographs, arcname="faces")
        for name, content in (("faces/notes.txt", b"text"), ("faces/x.bmp", b"bmp")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (photographs / "notes.txt").write_text("text")
    assert len(find_images([photographs])) == 7 and len(find_images([tar])) == 8
    found = find_images([photographs, tar, photographs / "3.png"])
    assert len(found) == 16 and found[7][0].startswith(f"{tar}, member faces/")
    copies = tmp_path / "copies"
    copies.mkdir()
    assert copy_images(found, copies, most=100) == [name for name, _ in found]
    assert {path.name for path in copies.iterdir()} == {f"{number}.png" for number in range(16)}
    assert (copies / "0.png").read_bytes() == (photographs / "0.png").read_bytes() == (copies / "7.png").read_bytes()
    assert cv2.imread(str(copies / "6.png")) is not None  # a JPEG by another name


def test_of_many_images_an_even_share_is_copied(tmp_path):
    found = [(str(number), lambda number=number: b"%d" % number) for number in range(103)]
    names = copy_images(found, tmp_path, most=50)
    steps = np.diff([int(name) for name in names])
    assert len(names) == 50 and names[0] == "0" and set(steps.tolist()) <= {2, 3} and int(names[-1]) >= 100
    assert (tmp_path / "49.png").read_bytes() == names[-1].encode()


def test_what_holds_no_image_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--images .*: holds no image; accepted are files"):
        find_images([tmp_path])
    with pytest.raises(UserError, match=r"--images .*nowhere: no such file"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(UserError, match=r"--images .*text\.tar: not a tar that can be read"):
        find_images([tmp_path / "text.tar"])
