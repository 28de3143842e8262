"""InsightFace's RecordIO (train.rec, train.idx, property), read and written without mxnet.

A record is framed by two little-endian 32-bit words, the magic and 3 bits `part` + 29 bits length, and padded to 4
bytes. A payload that holds the magic at a multiple of 4 is split there into parts (1 first, 2 middle, 3 last; 0 is
whole), and the magic is put back between them. A payload begins with flag (uint32), label (float32), id and id2
(uint64); `flag` float32 labels follow where it is above zero, then the encoded image. Record 0 may be a header: then no
image follows its labels [n, m]. Images are records 1..n-1, and records n..m-1, where there are any, hold the
[first, last) image records of one identity each. Without a header every record that holds an image is one, and its
first label is its identity.
Source: dmlc-core recordio.h and mxnet recordio.py (format), insightface (the header's meaning; recalled).
"""

import array
import mmap
import os
import pathlib
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zennas.data.left_out import NO_IMAGE_RECORD, UNLISTED, LeftOut
from zennas.records import UserError, shortened
from zennas.space.shape import DEFAULT_HW, height_and_width

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
FRAME = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
READ_AT_ONCE = 16384  # bytes; a 112 px JPEG fits, so one system call reads a record
BLOCK_BYTES = 64 * 2**20  # of an .idx parsed at once
BLOCK_RECORDS = 2**20
SMALL_BYTES = 128  # of a record with its frame: smaller than any image, so whether one follows is looked up
EXACT_FLOATS = 2**24  # float32 counts no further: beyond it a header's n and an identity's range are rounded


class BadRecordError(ValueError):
    """Bytes that are not a record; the message says why."""


class Header(NamedTuple):
    """What stands before the image in a payload."""

    flag: int
    label: float  # the first one, where there are several
    labels: tuple[float, ...]


class Records(NamedTuple):
    """The images of a .rec file, and what of it is none."""

    record_N: np.ndarray  # int64
    offset_N: np.ndarray  # int64
    label_N: np.ndarray  # int32
    num_classes: int | None  # of `property`
    left_out: LeftOut


def framed(payload: bytes) -> bytes:
    """The bytes of a record with this payload.

    >>> framed(b"abcde")[8:]
    b'abcde\\x00\\x00\\x00'
    """
    words = np.frombuffer(payload, "<u4", count=len(payload) // 4)
    cuts = [int(place) * 4 for place in np.flatnonzero(words == MAGIC)]
    starts, ends, pieces = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)], []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = WHOLE if not cuts else FIRST if number == 0 else LAST if number == len(cuts) else MIDDLE
        pieces += [FRAME.pack(MAGIC, part << LENGTH_BITS | end - start), payload[start:end]]
    return b"".join([*pieces, b"\0" * (-len(payload) % 4)])


def read_record(descriptor: int, offset: int) -> bytes:
    """The payload of the record at `offset` of an open file; BadRecordError where there is none. Safe in threads."""
    pieces, allowed = [], (WHOLE, FIRST)
    while True:
        head = os.pread(descriptor, READ_AT_ONCE, offset)
        if len(head) < FRAME.size:
            raise BadRecordError(f"the file ends at or before offset {offset}")
        magic, word = FRAME.unpack_from(head)
        part, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
        if magic != MAGIC or part not in allowed:
            raise BadRecordError(f"no record begins at offset {offset}")
        piece = head[FRAME.size : FRAME.size + length]
        if len(piece) < length:
            piece += os.pread(descriptor, length - len(piece), offset + FRAME.size + len(piece))
        if len(piece) < length:
            raise BadRecordError(f"the file ends inside the record at offset {offset}")
        pieces.append(piece)
        if part in (WHOLE, LAST):
            return MAGIC_BYTES.join(pieces)
        offset, allowed = offset + FRAME.size + length + -length % 4, (MIDDLE, LAST)


def unpack(payload: bytes) -> tuple[Header, bytes]:
    """(Header, encoded image) of a payload; BadRecordError where it is too short for its labels."""
    if len(payload) < HEADER.size:
        raise BadRecordError(f"a payload of {len(payload)} bytes is shorter than its header of {HEADER.size}")
    flag, label, _, _ = HEADER.unpack_from(payload)
    end = HEADER.size + 4 * flag
    if len(payload) < end:
        raise BadRecordError(f"a payload of {len(payload)} bytes cannot hold the {flag} labels it announces")
    labels = struct.unpack_from(f"<{flag}f", payload, HEADER.size) if flag else (label,)
    return Header(flag, labels[0], labels), payload[end:]


def index_records(rec_path: pathlib.Path | str, *, progress: Callable[[int, int], None] | None = None) -> Records:
    """The Records of a .rec file.

    Identity records spare reading the header of every image. Without an .idx the .rec is walked. progress(done, total)
    is called now and then. UserError where file, .idx and `property` are damaged or do not belong together.
    """
    rec_path = pathlib.Path(rec_path)
    idx_path = rec_path.with_suffix(".idx")
    size = rec_path.stat().st_size
    if size < FRAME.size + HEADER.size:
        raise UserError(f"{rec_path}: {size} bytes hold no record; expected an InsightFace .rec file")
    if idx_path.is_file():
        record_K, offset_K = _parse_idx(idx_path)
        bad = np.flatnonzero((offset_K < 0) | (offset_K % 4 != 0) | (offset_K > size - FRAME.size - HEADER.size))
        if len(bad):
            raise _bad(rec_path, record_K[bad[0]], offset_K[bad[0]], f"it is no place in a file of {size} bytes")
    else:
        record_K, offset_K = _walk(rec_path, progress)
    words = np.memmap(rec_path, "<u4", "r", shape=(size // 4,))
    descriptor = os.open(rec_path, os.O_RDONLY)
    try:
        table = _Table(rec_path, descriptor, words, record_K, offset_K, progress)
        table.checked(int(np.argmax(offset_K)))  # a file cut short ends inside its last record
        left_out = LeftOut()
        image_N, label_N = _images(table, left_out)
    finally:
        os.close(descriptor)
    bad = np.flatnonzero(~(label_N >= 0) | (label_N != np.floor(label_N)) | (label_N >= 2**31))
    if len(bad):
        which = image_N[bad[0]]
        raise _bad(
            rec_path, record_K[which], offset_K[which], f"its label {label_N[bad[0]]} is not an identity's number"
        )
    num_classes = _read_property(rec_path.with_name("property"))
    label_N = label_N.astype(np.int32)
    if num_classes is not None and len(label_N) and label_N.max() >= num_classes:
        which = int(np.argmax(label_N >= num_classes))
        where = f"{rec_path}, record {record_K[image_N[which]]} at offset {offset_K[image_N[which]]}"
        raise UserError(
            f"{where}: label {label_N[which]}, but `property` beside it counts {num_classes} classes: "
            f"0..{num_classes - 1} are allowed"
        )
    return Records(record_K[image_N], offset_K[image_N], label_N, num_classes, left_out)


class _Table(NamedTuple):
    """The records of a file, sorted by their number, as they are looked into."""

    path: pathlib.Path
    descriptor: int
    words: np.ndarray  # the file as 32-bit words
    record_K: np.ndarray
    offset_K: np.ndarray
    progress: object

    def checked(self, which):
        """Header and image of one record."""
        try:
            return unpack(read_record(self.descriptor, int(self.offset_K[which])))
        except BadRecordError as error:
            raise _bad(self.path, self.record_K[which], self.offset_K[which], error) from None

    def headers(self, which_M):
        """(flag_M, first_M, second_M labels as float64, empty_M: whether no image follows), read block by block."""
        flag_M, empty_M = np.empty(len(which_M), np.int64), np.empty(len(which_M), bool)
        first_M, second_M = np.empty(len(which_M)), np.empty(len(which_M))
        for start in range(0, len(which_M), BLOCK_RECORDS):
            block = slice(start, start + BLOCK_RECORDS)
            which = which_M[block]
            word = self.offset_K[which] // 4
            frame, length = self.words[word + 1], self.words[word + 1] & (1 << LENGTH_BITS) - 1
            good = (self.words[word] == MAGIC) & (frame >> LENGTH_BITS <= FIRST)
            good &= word * 4 + FRAME.size + length.astype(np.int64) <= len(self.words) * 4
            if not good.all():
                self.checked(int(which[np.argmin(good)]))  # says what is wrong
            flag = self.words[word + 2].astype(np.int64)
            last = len(self.words) - 1
            first = np.where(flag > 0, self.words[np.minimum(word + 8, last)], self.words[word + 3])
            whole = frame >> LENGTH_BITS == WHOLE
            flag_M[block], empty_M[block] = flag, whole & (length <= HEADER.size + 4 * flag)
            first_M[block] = first.astype("<u4").view("<f4")
            second_M[block] = self.words[np.minimum(word + 9, last)].astype("<u4").view("<f4")
            # A header that is itself split at a magic, or a payload too short for its labels.
            needed = np.where(whole, HEADER.size + 4 * np.minimum(flag, 2), HEADER.size + 8)
            for odd in np.flatnonzero(length < needed):
                header, image = self.checked(int(which[odd]))
                flag_M[start + odd], first_M[start + odd], empty_M[start + odd] = header.flag, header.label, not image
                second_M[start + odd] = header.labels[1] if header.flag > 1 else np.nan
            if self.progress:
                self.progress(min(start + BLOCK_RECORDS, len(which_M)), len(which_M))
        return flag_M, first_M, second_M, empty_M


def _images(table, left_out):
    """(image_N: which of the table's records are images, label_N float64)."""
    record_K = table.record_K
    header, image = table.checked(0) if record_K[0] == 0 else (None, b"")
    # Labels before an image are a person's; an m below n is no header's.
    if header is None or header.flag < 2 or image or not header.labels[1] >= header.labels[0]:
        return _images_without_header(table, left_out)
    num_records = header.labels[0]
    end = int(num_records) if num_records >= 1 and np.isfinite(num_records) else 0
    if end > EXACT_FLOATS:  # what is an image shows in the records alone
        image_N = np.arange(1, len(record_K))
        _, label_N, _, empty_N = table.headers(image_N)
        return image_N[~empty_N], label_N[~empty_N]
    image_N = np.arange(1, int(np.searchsorted(record_K, end)))
    identity_I = np.arange(len(image_N) + 1, len(record_K))
    flag_I, first_I, last_I, empty_I = table.headers(identity_I) if len(identity_I) else [np.zeros(0)] * 4
    if not empty_I.all():  # images stand where a header has none: record 0 is no header, it lacks its image
        return _images_without_header(table, left_out)
    if end == 0 or len(image_N) != end - 1:
        raise UserError(
            f"{table.path}, record 0: announces images 1..{end - 1}, {len(image_N)} of them are listed; "
            "the .idx belongs to another file, or the .rec was cut"
        )
    if len(identity_I):
        order = np.argsort(first_I, kind="stable")
        first_I, last_I = first_I[order], last_I[order]
        tiled = (flag_I == 2).all() and first_I[0] == 1 and last_I[-1] == end and (first_I[1:] == last_I[:-1]).all()
        if tiled and (last_I > first_I).all():
            _, label_I, _, _ = table.headers(first_I.astype(np.int64))
            _, other_I, _, _ = table.headers(last_I.astype(np.int64) - 1)
            if (label_I == other_I).all():
                label_N = np.repeat(label_I, (last_I - first_I).astype(np.int64))
                return _with_an_image(table, image_N, label_N, left_out)
    return _with_an_image(table, image_N, table.headers(image_N)[1], left_out)


def _images_without_header(table, left_out):
    """As `_images`, where every record may be an image."""
    record_K = table.record_K
    _, label_K, _, empty_K = table.headers(np.arange(len(record_K)))
    for record in record_K[empty_K].tolist():
        left_out.add(NO_IMAGE_RECORD, f"record {record}")
    for offset in _unlisted(table):
        left_out.add(UNLISTED, f"at offset {offset}")
    return np.flatnonzero(~empty_K), label_K[~empty_K]


def _with_an_image(table, image_N, label_N, left_out):
    """(image_N, label_N) without the records that end with their labels."""
    order = np.argsort(table.offset_K, kind="stable")
    size_K = np.empty(len(order), np.int64)
    size_K[order] = np.diff(table.offset_K[order], append=len(table.words) * 4)  # up to the next one
    small = np.flatnonzero(size_K[image_N] <= SMALL_BYTES)
    if not len(small):
        return image_N, label_N
    empty = small[table.headers(image_N[small])[3]]
    for record in table.record_K[image_N[empty]].tolist():
        left_out.add(NO_IMAGE_RECORD, f"record {record}")
    return np.delete(image_N, empty), np.delete(label_N, empty)


def _unlisted(table):
    """The offsets at which records begin that the .idx does not list: what lies between those that it lists."""
    offset_K, size = np.sort(table.offset_K), len(table.words) * 4
    length_K = (table.words[offset_K // 4 + 1] & (1 << LENGTH_BITS) - 1).astype(np.int64)
    end_K = offset_K + FRAME.size + length_K + -length_K % 4
    next_K = np.append(offset_K[1:], size)
    gap = end_K < next_K
    for end, until in [(0, int(offset_K[0])), *zip(end_K[gap].tolist(), next_K[gap].tolist(), strict=True)]:
        while end + FRAME.size <= until:
            magic, word = table.words[end // 4 : end // 4 + 2].tolist()
            if magic != MAGIC:
                break  # no record: what follows is not ours to judge
            if word >> LENGTH_BITS in (WHOLE, FIRST):
                yield end
            length = word & (1 << LENGTH_BITS) - 1
            end += FRAME.size + length + -length % 4


def _bad(path, record, offset, why):
    return UserError(
        f"{path}, record {record} at offset {offset}: {why}; the file is damaged or cut short, or its .idx belongs "
        f"to another"
    )


def _parse_idx(path):
    """(record_K, offset_K), sorted by record, of an .idx: lines of "record<tab>offset"."""
    parts, rest, line = [], b"", 1
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            text, _, rest = (rest + block).rpartition(b"\n")
            parts.append(_parse_lines(text, path, line))
            line += len(parts[-1])
    parts.append(_parse_lines(rest, path, line))
    pair_K2 = np.concatenate(parts)
    if not len(pair_K2):
        raise UserError(f"{path}: is empty; expected lines of record<tab>offset (without the file, the .rec is walked)")
    record_K, offset_K = pair_K2[:, 0], pair_K2[:, 1]
    if (np.diff(record_K) < 0).any():
        order = np.argsort(record_K, kind="stable")
        record_K, offset_K = record_K[order], offset_K[order]
    if len(twice := np.flatnonzero(np.diff(record_K) == 0)):
        raise UserError(f"{path}: record {record_K[twice[0]]} is listed twice")
    return np.ascontiguousarray(record_K), np.ascontiguousarray(offset_K)


def _parse_lines(text, path, first_line):
    num_lines = text.count(b"\n") + 1 if text else 0
    if not text.strip(b"0123456789\t\r\n"):
        try:
            value = np.fromstring(text.decode(), np.int64, sep=" ")
            if len(value) == 2 * num_lines and text.count(b"\t") == num_lines:
                return value.reshape(-1, 2)
        except ValueError:
            pass
    for number, line in enumerate(text.split(b"\n"), start=first_line):
        fields = line.rstrip(b"\r").split(b"\t")
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            raise UserError(f"{path}, line {number}: expected record<tab>offset, got {shortened(line, 60)!r}")
    raise UserError(f"{path}, from line {first_line} on: expected lines of record<tab>offset")


def _walk(path, progress):
    """(record_K, offset_K) of a .rec without .idx: records are numbered as they lie."""
    offsets = array.array("q")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        offset, size = 0, len(memory)
        while offset < size:
            magic, word = FRAME.unpack_from(memory, offset) if offset + FRAME.size <= size else (None, 0)
            length = word & (1 << LENGTH_BITS) - 1
            if magic != MAGIC or offset + FRAME.size + length > size:
                why = "no record begins there" if magic != MAGIC else "the file ends inside it"
                raise UserError(
                    f"{path}, record {len(offsets)} at offset {offset}: {why}; the file is damaged or cut short"
                )
            if word >> LENGTH_BITS in (WHOLE, FIRST):
                offsets.append(offset)
                if progress and len(offsets) % BLOCK_RECORDS == 0:
                    progress(offset, size)
            offset += FRAME.size + length + -length % 4
    return np.arange(len(offsets)), np.frombuffer(offsets, np.int64)


def _read_property(path):
    """The class count of a `property` file ("classes,height,width"), or None where there is none."""
    if not path.is_file():
        return None
    first = path.read_text(encoding="utf-8", errors="replace").split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise UserError(f"{path}: expected classes,height,width (as 85742,112,112), got {shortened(first, 40)!r}")
    return int(first)


class RecordWriter:
    """Writes train.rec, train.idx and property into a folder, which has them whole or not at all.

        with RecordWriter(folder) as writer:
            writer.add(encoded, label)

    Identity records are written where the images of every identity came one after another. num_classes: for `property`;
    else the largest label + 1. image_px: the side of the images, or (height, width), for `property` too.
    """

    def __init__(self, folder, *, num_classes=None, image_px=DEFAULT_HW):
        self.folder, self.num_classes, self.image_hw = pathlib.Path(folder), num_classes, height_and_width(image_px)
        self._offsets, self._ranges, self._seen = array.array("q"), [], set()
        self._label, self._grouped = None, True

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.folder / ".train.rec.tmp", "wb")  # closed by __exit__
        self._write(_payload((0.0, 0.0)))  # rewritten when the number of images is known
        return self

    def _write(self, payload):
        self._offsets.append(self._file.tell())
        self._file.write(framed(payload))

    def add(self, encoded: bytes, label: int) -> None:
        """Append one encoded image of identity `label` (an integer from 0)."""
        if not 0 <= label < EXACT_FLOATS:
            raise UserError(f"{self.folder}: label {label}; a .rec keeps labels as float32: 0..{EXACT_FLOATS - 1}")
        record = len(self._offsets)
        if label != self._label:
            self._grouped &= label not in self._seen
            self._seen.add(label)
            self._ranges.append(record)
            self._label = label
        self._write(HEADER.pack(0, label, record, 0) + encoded)

    def __exit__(self, kind, error, trace):
        end = len(self._offsets)
        with self._file as file:
            if kind is None:
                if self._grouped and end <= EXACT_FLOATS:
                    for first, last in zip(self._ranges, [*self._ranges, end][1:], strict=True):
                        self._write(_payload((first, last)))
                file.seek(0)
                file.write(framed(_payload((end, len(self._offsets)))))
        if kind is not None:
            os.unlink(file.name)
            return
        num_classes = self.num_classes or max(self._seen, default=0) + 1
        height, width = self.image_hw
        with open(self.folder / "train.idx", "w", encoding="ascii") as idx:
            idx.writelines(f"{record}\t{offset}\n" for record, offset in enumerate(self._offsets))
        (self.folder / "property").write_text(f"{num_classes},{height},{width}\n", encoding="ascii")
        os.replace(file.name, self.folder / "train.rec")


def _payload(labels):
    return HEADER.pack(len(labels), 0.0, 0, 0) + struct.pack(f"<{len(labels)}f", *labels)
