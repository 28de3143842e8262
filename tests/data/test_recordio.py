"""RecordIO: what is written is read again, what others write is read, and what is broken is said."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zennas.data import recordio
from zennas.data.recordio import RecordWriter, framed, index_records, read_record, unpack
from zennas.records import UserError

MAGIC = struct.pack("<I", 0xCED7230A)


def naive_records(data):
    """Payloads by the letter of dmlc's recordio.h, one word at a time."""
    payloads, parts, place = [], None, 0
    while place < len(data):
        magic, word = struct.unpack_from("<II", data, place)
        assert magic == 0xCED7230A
        part, length = word >> 29, word % 2**29
        piece = data[place + 8 : place + 8 + length]
        place += 8 + (length + 3) // 4 * 4
        if part in (0, 1):
            parts = piece
        else:
            parts = parts + MAGIC + piece
        if part in (0, 3):
            payloads.append(parts)
    return payloads


# Bytes in which the magic stands often, at multiples of 4 and off them.
payloads = st.lists(st.sampled_from([MAGIC, b"a", b"bcde", MAGIC[:2], MAGIC[2:]]), max_size=12).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(payloads)
def test_a_payload_survives_its_frame(payload):
    data = framed(payload)
    assert len(data) % 4 == 0 and naive_records(data) == [payload]
    # No magic at a multiple of 4 but those that begin parts: else a reader could not find records again.
    words = np.frombuffer(data, "<u4")
    assert np.count_nonzero(words == 0xCED7230A) == 1 + sum(
        payload[place : place + 4] == MAGIC for place in range(0, len(payload) // 4 * 4, 4)
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(payloads, min_size=1, max_size=4))
def test_records_are_read_at_their_offsets(tmp_path_factory, many):
    path = tmp_path_factory.mktemp("rec") / "x.rec"
    offsets = np.cumsum([0] + [len(framed(payload)) for payload in many])
    path.write_bytes(b"".join(map(framed, many)))
    descriptor = os.open(path, os.O_RDONLY)
    assert [read_record(descriptor, int(offset)) for offset in offsets[:-1]] == many
    os.close(descriptor)


def test_a_record_longer_than_one_read(tmp_path):
    payload = os.urandom(recordio.READ_AT_ONCE * 3 + 1)
    (tmp_path / "x.rec").write_bytes(framed(payload))
    descriptor = os.open(tmp_path / "x.rec", os.O_RDONLY)
    assert read_record(descriptor, 0) == payload
    os.close(descriptor)


FACES = [(b"face0", 0), (b"f1", 0), (MAGIC * 3, 1), (b"4", 2), (b"4444", 2), (b"x" * 99, 2)]


def write(folder, faces=FACES, **options):
    with RecordWriter(folder, **options) as writer:
        for encoded, label in faces:
            writer.add(encoded, label)
    return folder / "train.rec"


def images(rec_path, offset_N):
    descriptor = os.open(rec_path, os.O_RDONLY)
    found = [unpack(read_record(descriptor, int(offset)))[1] for offset in offset_N]
    os.close(descriptor)
    return found


@pytest.mark.parametrize("with_idx", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_what_was_written_is_indexed(tmp_path, with_idx, grouped):
    faces = FACES if grouped else FACES[::2] + FACES[1::2]
    path = write(tmp_path, faces)
    if not with_idx:
        (tmp_path / "train.idx").unlink()
    record_N, offset_N, label_N, num_classes, _ = index_records(path)
    assert record_N.tolist() == [1, 2, 3, 4, 5, 6] and num_classes == 3
    assert label_N.tolist() == [label for _, label in faces] and label_N.dtype == np.int32
    assert images(path, offset_N) == [encoded for encoded, _ in faces]


def test_the_layout_is_insightfaces(tmp_path):
    """Record 0 holds [n, m], and records n..m-1 the ranges: derived from the bytes, without the reader."""
    records = naive_records(write(tmp_path).read_bytes())
    headers = [struct.unpack_from("<IfQQ", payload) for payload in records]
    assert headers[0][0] == 2 and struct.unpack("<2f", records[0][24:]) == (7, 10)
    assert [header[1] for header in headers[1:7]] == [0, 0, 1, 2, 2, 2]
    assert [struct.unpack("<2f", payload[24:]) for payload in records[7:]] == [(1, 3), (3, 4), (4, 7)]
    assert (tmp_path / "property").read_text() == "3,112,112\n"
    lines = (tmp_path / "train.idx").read_text().splitlines()
    assert lines[0] == "0\t0" and lines[1] == f"1\t{len(framed(records[0]))}" and len(lines) == 10


def test_identity_records_spare_reading_every_image(tmp_path, monkeypatch):
    path, read = write(tmp_path, [(encoded * 99, label) for encoded, label in FACES]), []
    original = recordio._Table.headers
    monkeypatch.setattr(
        recordio._Table, "headers", lambda table, which: read.append(len(which)) or original(table, which)
    )
    index_records(path)
    assert read == [3, 3, 3]  # the identities, and the first and last image of each


@pytest.mark.parametrize("ranges", [[(1, 4), (3, 4), (4, 7)], [(1, 2), (2, 4), (4, 7)], [(1, 3), (3, 4), (4, 6)]])
def test_wrong_identity_records_are_not_believed(tmp_path, ranges):
    """They overlap; or they tile the images, but not as the labels do; or they leave one out."""
    path = write(tmp_path)
    data = path.read_bytes()
    for right, wrong in zip([(1, 3), (3, 4), (4, 7)], ranges, strict=True):
        data = data.replace(struct.pack("<2f", *right), struct.pack("<2f", *wrong))
    path.write_bytes(data)
    assert index_records(path)[2].tolist() == [0, 0, 1, 2, 2, 2]


def test_counts_beyond_float32_are_not_believed(tmp_path, monkeypatch):
    """As with more than 2^24 images, where n and the ranges are rounded: what is an image shows in the records
    alone."""
    faces = [(b"a", 0), (b"b", 1), (b"c", 1)]
    path = write(tmp_path, faces)
    data = bytearray(path.read_bytes())
    data[8 + 24 : 8 + 28] = struct.pack("<f", 6)  # n = 4, rounded up
    path.write_bytes(data)
    monkeypatch.setattr(recordio, "EXACT_FLOATS", 3)
    record_N, offset_N, label_N, _, _ = index_records(path)
    assert record_N.tolist() == [1, 2, 3] and label_N.tolist() == [0, 1, 1]
    assert images(path, offset_N) == [b"a", b"b", b"c"]


def test_without_a_header_every_record_is_an_image(tmp_path):
    payloads = [struct.pack("<IfQQ", 0, label, 0, 0) + b"image" for label in (2, 0, 1)]
    # Two labels in the last: the first counts.
    payloads.append(struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<2f", 7, 9) + b"image")
    (tmp_path / "a.rec").write_bytes(b"".join(map(framed, payloads)))
    record_N, offset_N, label_N, num_classes, _ = index_records(tmp_path / "a.rec")
    assert record_N.tolist() == [0, 1, 2, 3] and label_N.tolist() == [2, 0, 1, 7] and num_classes is None
    assert images(tmp_path / "a.rec", offset_N) == [b"image"] * 4


def records_of(folder, rows, *, start=0, listed=slice(None)):
    """A .rec without a header record, as im2rec writes it. rows: (labels, or one label, image)."""
    lines, data = [], b""
    for number, (labels, image) in enumerate(rows, start):
        several = isinstance(labels, list)
        head = struct.pack("<IfQQ", len(labels) if several else 0, 0 if several else labels, number, 0)
        lines.append(f"{number}\t{len(data)}\n")
        data += framed(head + (struct.pack(f"<{len(labels)}f", *labels) if several else b"") + image)
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text("".join(lines[listed]))
    return folder / "train.rec"


IMAGE = b"image" * 40


@pytest.mark.parametrize("labels", [lambda label: [label, 0], lambda label: [label], lambda label: label])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("first", [0, 1, 4])
def test_a_person_s_labels_are_no_header(tmp_path, labels, start, first):
    """Record 0 is a header only where no image follows its labels, whatever the first person's number."""
    people = [first, 3, 2, 4, 1, 0]
    path = records_of(tmp_path, [(labels(person), IMAGE) for person in people], start=start)
    for idx in (path.with_suffix(".idx"), None):
        records = index_records(path)
        assert records.label_N.tolist() == people and records.left_out.plain() == {}
        assert images(path, records.offset_N) == [IMAGE] * 6
        if idx:
            idx.unlink()  # and the same where the file is walked


def test_records_without_an_image_are_counted(tmp_path):
    rows = [([9, 1], b""), ([3, 0], IMAGE), ([2, 0], b""), ([2, 0], IMAGE)]  # record 0 announces what is not there
    records = index_records(records_of(tmp_path, rows))
    assert records.label_N.tolist() == [3, 2]
    assert records.left_out.plain() == {"records without an image": [2, ["record 0", "record 2"]]}
    written = index_records(write(tmp_path / "ours", [(IMAGE, 0), (b"", 0), (b"", 1), (IMAGE, 2)]))
    assert written.record_N.tolist() == [1, 4] and written.label_N.tolist() == [0, 2]
    assert written.left_out.plain() == {"records without an image": [2, ["record 2", "record 3"]]}


@pytest.mark.parametrize(("listed", "num"), [(slice(0, 2), 2), (slice(1, 3), 2), (slice(0, 4, 2), 2), (slice(None), 0)])
def test_records_that_the_idx_does_not_list_are_counted(tmp_path, listed, num):
    rows = [([person, 0], MAGIC * person + IMAGE) for person in (1, 2, 3, 0)]  # some of several parts
    records = index_records(records_of(tmp_path, rows, listed=listed))
    assert records.label_N.tolist() == [1, 2, 3, 0][listed]
    assert [count for count, _ in records.left_out.plain().values()] == ([num] if num else [])


def test_blocks_do_not_show(tmp_path, monkeypatch):
    path = write(tmp_path, [(encoded * 99, label) for encoded, label in FACES[::2] + FACES[1::2]])
    whole = [np.asarray(column).tolist() for column in index_records(path)[:3]]
    monkeypatch.setattr(recordio, "BLOCK_BYTES", 7)
    monkeypatch.setattr(recordio, "BLOCK_RECORDS", 2)
    said = []
    again = index_records(path, progress=lambda done, total: said.append((done, total)))
    assert [np.asarray(column).tolist() for column in again[:3]] == whole
    assert said == [(2, 6), (4, 6), (6, 6)]


def test_an_idx_in_any_order(tmp_path):
    path = write(tmp_path)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    (tmp_path / "train.idx").write_text("\r\n".join(reversed(lines)))  # and no newline at the end
    assert index_records(path)[0].tolist() == [1, 2, 3, 4, 5, 6]


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def cut_in_the_middle(path):
    path.write_bytes(path.read_bytes()[:100])


def cut_without_idx(path):
    path.with_name("train.idx").unlink()
    cut(path)


def zeros(path):
    data = path.read_bytes()
    path.write_bytes(data[:44] + b"\0" * (len(data) - 44))


def nothing(path):
    path.write_bytes(b"")


def text(path):
    path.with_name("train.idx").unlink()
    path.write_bytes(b"this is no record file, whatever its name may say")


def other_idx(path):
    lines = path.with_name("train.idx").read_text().splitlines()
    path.with_name("train.idx").write_text(
        "".join(f"{line.split()[0]}\t{int(line.split()[1]) + 4}\n" for line in lines)
    )


def short_idx(path):
    path.with_name("train.idx").write_text("".join(path.with_name("train.idx").read_text().splitlines(True)[:4]))


def torn_idx(path):
    path.with_name("train.idx").write_text("0\t0\n1\n")


def double_idx(path):
    file = path.with_name("train.idx")
    file.write_text(file.read_text() + "3\t40\n")


def endless_idx(path):
    path.with_name("train.idx").write_text(f"0\t0\n1\t{2**70}\n")


def empty_idx(path):
    path.with_name("train.idx").write_text("")


def few_classes(path):
    path.with_name("property").write_text("2,112,112\n")


def odd_property(path):
    path.with_name("property").write_text("many,112,112\n")


def half_label(path):
    path.write_bytes(path.read_bytes().replace(struct.pack("<IfQQ", 0, 1, 3, 0), struct.pack("<IfQQ", 0, 0.5, 3, 0)))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, r"train.rec, record 9 at offset \d+: the file ends inside"),
        (cut_in_the_middle, r"train.rec, record \d at offset \d+: it is no place in a file of 100 bytes"),
        (cut_without_idx, r"train.rec, record 9 at offset \d+: the file ends inside"),
        (zeros, r"train.rec, record \d at offset \d+: no record begins"),
        (nothing, "train.rec: 0 bytes hold no record"),
        (text, "record 0 at offset 0: no record begins"),
        (other_idx, r"train.rec, record \d at offset \d+: "),
        (short_idx, r"record 0: announces images 1..6, 3 of them are listed"),
        (torn_idx, "train.idx, line 2: expected record<tab>offset"),
        (double_idx, "train.idx: record 3 is listed twice"),
        (endless_idx, r"record 1 at offset \d+: it is no place in a file"),
        (empty_idx, "train.idx: is empty"),
        (few_classes, r"train.rec, record 4 at offset \d+: label 2, .*counts 2 classes: 0..1 are allowed"),
        (odd_property, "property: expected classes,height,width .* got 'many'"),
        (half_label, r"record 3 at offset \d+: its label 0.5 is not"),
    ],
)
def test_what_is_broken_is_said(tmp_path, damage, says):
    path = write(tmp_path)
    damage(path)
    with pytest.raises(UserError, match=says):
        index_records(path)


def test_a_record_without_the_labels_it_announces(tmp_path):
    payloads = [struct.pack("<IfQQ", 0, 0, 0, 0) + b"image", struct.pack("<IfQQ", 2, 0, 0, 0), b"\0" * 40]
    (tmp_path / "a.rec").write_bytes(b"".join(map(framed, payloads)))
    with pytest.raises(UserError, match=r"a.rec, record 1 at offset \d+: .* cannot hold the 2 labels it announces"):
        index_records(tmp_path / "a.rec")


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="label -1"), RecordWriter(tmp_path) as writer:
        writer.add(b"x", -1)
    assert list(tmp_path.iterdir()) == []
