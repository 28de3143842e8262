"""The teacher: a trained network of any origin that says what its embedding of a face is, and never learns.

Also the form in which a trained network of ours is kept, network.pt, and a teacher's embeddings computed once.
"""

# B faces, N images, D embedding size, H height, W width

import concurrent.futures
import copy
import hashlib
import io
import math
import os
import pathlib
import time
import warnings
import zipfile
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zennas.export import open_session
from zennas.faces.images import CorruptImageError, decode
from zennas.provenance import num_cores
from zennas.records import Record, UserError, first_line
from zennas.run_folder import lock_folder, write_atomically
from zennas.space.candidate import Candidate
from zennas.space.network import Network
from zennas.train.distill import Features, attention_of

NETWORK = "network.pt"
ACCEPTED = (
    f"a zennas checkpoint ({NETWORK} or the folder that holds it), an ONNX file, a torch.export program (.pt2) "
    "or a TorchScript file"
)
SAVE_EVERY_S = 5.0  # what a kill may cost of a precomputation
MAX_LISTED = 100  # corrupt images that a sidecar names; all are counted


def save_network(path, network):
    """Write a Network to a file that is there whole or not at all: its candidate, its sizes and its weights, nothing else."""
    buffer = io.BytesIO()
    content = {
        "candidate": network.candidate.plain(),
        "image_px": network.input_shape[-1],
        "embedding_size": network.neck[-1].num_features,
        "weights": {name: weight.detach().cpu().clone() for name, weight in network.state_dict().items()},
    }
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_network(path):
    """The Network that `save_network` wrote, in float32, on the processor, in eval mode; `path` may be the folder of network.pt.

    Only tensors and plain values are read: a file from a stranger runs nothing. UserError where it is something else, damaged,
    or its weights are not those of its candidate.
    """
    path = _file_of(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - bytes that are no checkpoint make the unpickler raise whatever they like
        raise UserError(f"{path}: not a network of zennas: {first_line(error)}") from None
    keys = ("candidate", "image_px", "embedding_size", "weights")
    if not isinstance(content, dict) or set(content) != set(keys) or not isinstance(content["weights"], dict):
        raise UserError(f"{path}: not a network of zennas; one holds {', '.join(keys)}")
    candidate, weights = Candidate.parse(content["candidate"], path), content["weights"]
    sizes = {key: content[key] for key in ("image_px", "embedding_size")}
    for key, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{path}: {key}: given {size!r}, allowed: an integer of at least 1")
    if candidate.num_blocks > len(weights):  # before a hostile depth is built
        raise UserError(f"{path}: {len(weights)} weights cannot be those of {candidate.num_blocks} blocks")
    try:
        with torch.device("meta"):
            network = Network(candidate, **sizes)
        network.load_state_dict(weights, assign=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (RuntimeError, AttributeError, TypeError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: its weights are not those of {candidate.text}: {said}") from None
    if any(weight.layout != torch.strided or weight.is_complex() for weight in network.state_dict().values()):
        raise UserError(f"{path}: weights that are sparse or complex; allowed: dense numbers")
    return network.float().eval()


class Teacher:
    """Images in, Features out. No nn.Module, so that no optimizer, no `train()` and no checkpoint of the student finds it.

    input_px: the side of the images it is called with. embedding_size. fingerprint: of everything its answers depend on.
    """

    def __init__(self, origin, where, *, mean, std, device, image_px, resize, dtype):
        self._origin, self.where, self.device, self._dtype = origin, where, device, dtype
        self.input_px, self._resize = origin.input_px or image_px, resize
        self._mean_311, self._std_311 = (torch.tensor(value, device=device).view(3, 1, 1) for value in (mean, std))
        says = [origin.fingerprint, self.input_px, *map(float, mean), *map(float, std), resize, str(dtype)]
        self.fingerprint = hashlib.sha256(repr(says).encode()).hexdigest()[:16]
        self.embedding_size = self._probe()

    def __call__(self, image_BHW3):
        """The Features of uint8 RGB images of input_px (with `resize`: of any size), on the teacher's device, without gradient.

        UserError for images of another size.
        """
        # No inference_mode: what it makes cannot be saved for the student's backward.
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self._answer(self._prepared(image_BHW3))

    def _prepared(self, image_BHW3):
        if image_BHW3.dtype != torch.uint8 or image_BHW3.ndim != 4 or image_BHW3.shape[3] != 3:
            raise UserError(
                f"teacher {self.where}: given images {tuple(image_BHW3.shape)} of {image_BHW3.dtype}, "
                "allowed: (B, H, W, 3) of uint8"
            )
        given_px = tuple(image_BHW3.shape[1:3])
        if given_px != (self.input_px, self.input_px) and not self._resize:
            raise UserError(
                f"teacher {self.where}: takes images of {self.input_px} x {self.input_px}, given {given_px[0]} x {given_px[1]}; "
                f"decode the faces at {self.input_px} px for it as well, or let it resize them"
            )
        image_B3HW = image_BHW3.to(self.device).permute(0, 3, 1, 2).float()
        if given_px != (self.input_px, self.input_px):
            size = (self.input_px, self.input_px)
            image_B3HW = F.interpolate(image_B3HW, size, mode="bilinear", antialias=True, align_corners=False)
        return ((image_B3HW - self._mean_311) / self._std_311).contiguous()

    def _answer(self, image_B3HW):
        fixed = self._origin.fixed_batch
        if fixed is None:
            return self._origin.answer(image_B3HW)
        num_faces = len(image_B3HW)
        padding = image_B3HW[-1:].expand(-num_faces % fixed, -1, -1, -1)
        pieces = torch.cat([image_B3HW, padding]).split(fixed)
        embedding_BD = torch.cat([self._origin.answer(piece.contiguous()).embedding_BD for piece in pieces])
        return Features(embedding_BD[:num_faces])

    def _probe(self):
        """The embedding size, as two black images show it; UserError where the teacher does not do what a teacher does."""
        image_BHW3 = torch.zeros(2, self.input_px, self.input_px, 3, dtype=torch.uint8)
        try:
            embedding_BD = self(image_BHW3).embedding_BD
        except Exception as error:  # noqa: BLE001 - a foreign network, asked for the first time
            raise UserError(
                f"teacher {self.where}: fails on images of {self.input_px} x {self.input_px}: {first_line(error)}"
            ) from None
        if not isinstance(embedding_BD, torch.Tensor) or embedding_BD.ndim != 2 or len(embedding_BD) != 2:
            shape = tuple(embedding_BD.shape) if isinstance(embedding_BD, torch.Tensor) else type(embedding_BD).__name__
            raise UserError(
                f"teacher {self.where}: answers two images with {shape}, allowed: a tensor (2, embedding size)"
            )
        if not embedding_BD.isfinite().all():
            raise UserError(
                f"teacher {self.where}: its embedding of a black image is not finite: a training that diverged?"
            )
        return embedding_BD.shape[1]


class Origin(NamedTuple):
    """What an opened file or module offers a Teacher."""

    answer: Any  # image_B3HW, normalised -> Features
    fingerprint: str
    input_px: int | None = None  # where it says so itself
    fixed_batch: int | None = None  # where it takes no other


def open_teacher(
    source,
    *,
    mean=(127.5,) * 3,
    std=(127.5,) * 3,
    device="cpu",
    image_px=112,
    resize=False,
    dtype=torch.float32,
):
    """The Teacher in a file or folder, or an nn.Module B3HW -> BD (which is copied).

    A file is a zennas checkpoint, ONNX (on the GPU where the installed ONNX Runtime can), a torch.export program or TorchScript;
    its content decides, not its name. A torch.export program or TorchScript can run code of its author's: open none from a
    stranger. mean, std: (image - mean) / std is what it was trained on, per channel in RGB order, images in 0..255.
    image_px: the side of its images where it does not say itself. resize: images of another size are scaled to its own
    (A-SKD: the teacher sees more than the student); without, they are refused. dtype: of autocast on the way; float32: none.
    UserError where the file is none of these, or the network fails or gives no embeddings.
    """
    device = torch.device(device)
    if len(mean) != 3 or len(std) != 3 or not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise UserError(f"teacher: mean {mean} and std {std}: allowed: three numbers each, std above 0")
    if isinstance(source, nn.Module):
        origin, where = _module_origin(copy.deepcopy(source), device), type(source).__name__
    else:
        where = _file_of(source)
        origin = ORIGINS[_kind_of(where)](where, device)
    return Teacher(origin, where, mean=mean, std=std, device=device, image_px=image_px, resize=resize, dtype=dtype)


def _file_of(path):
    path = pathlib.Path(path)
    path = path / NETWORK if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; allowed: {ACCEPTED}")
    return path


def _kind_of(path):
    """The row of ORIGINS for a file, by what is in it: torch's files are zip archives, ONNX is none."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return "onnx"
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {name.partition("/")[2] for name in archive.namelist()}
    except Exception:  # noqa: BLE001 - a damaged archive makes zipfile raise whatever it likes; torch says what is wrong
        inside = set()
    if "archive_format" in inside:
        return "pt2"
    if any(name.startswith("code/") for name in inside):
        return "torchscript"
    return "checkpoint"


def _checkpoint_origin(path, device):
    return _module_origin(load_network(path), device)


def _module_origin(network, device):
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, weight in network.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    network = network.to(device).eval().requires_grad_(False)

    def answer(image_B3HW):
        with attention_of(network) as maps:
            return Features(network(image_B3HW), maps.take())

    return Origin(answer, digest.hexdigest(), getattr(network, "input_shape", (None,))[-1])


def _onnx_origin(path, device):
    try:
        wanted = {"CUDAExecutionProvider": {"device_id": device.index or 0}} if device.type == "cuda" else {}
        wanted["CPUExecutionProvider"] = {}
        session = open_session(str(path), providers=list(wanted), provider_options=list(wanted.values()))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated types for what is no network
        raise UserError(f"{path}: cannot be opened as a teacher: {first_line(error)}; allowed: {ACCEPTED}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    batch, input_px = _sizes_of(shape, path)
    if inputs[0].type != "tensor(float)" or len(outputs) != 1:
        raise UserError(
            f"{path}: takes {inputs[0].type} and gives {len(outputs)} outputs; allowed for a teacher: tensor(float) and one"
        )

    def answer(image_B3HW):
        (embedding_BD,) = session.run(None, {inputs[0].name: image_B3HW.cpu().numpy()})
        return Features(torch.from_numpy(embedding_BD).to(device))

    return Origin(answer, _hash_of(path), input_px, batch)


def _pt2_origin(path, device):
    try:
        program = torch.export.load(path)
        module = program.module().to(device).requires_grad_(False)
        (name,) = program.graph_signature.user_inputs
        (node,) = [node for node in program.graph.nodes if node.name == name]
        shape = [size if isinstance(size, int) else None for size in node.meta["val"].shape]
    except Exception as error:  # noqa: BLE001 - torch.export raises whatever it likes
        raise UserError(
            f"{path}: cannot be opened as a torch.export program of one input: {first_line(error)}"
        ) from None
    batch, input_px = _sizes_of(shape, path)
    return Origin(lambda image_B3HW: Features(module(image_B3HW)), _hash_of(path), input_px, batch)


def _torchscript_origin(path, device):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be opened as TorchScript: {first_line(error)}") from None
    for weight in module.parameters():
        weight.requires_grad_(False)
    return Origin(lambda image_B3HW: Features(module(image_B3HW)), _hash_of(path))


# kind -> (path, device) -> Origin
ORIGINS = {
    "checkpoint": _checkpoint_origin,
    "onnx": _onnx_origin,
    "pt2": _pt2_origin,
    "torchscript": _torchscript_origin,
}


def _sizes_of(shape, path):
    """(batch, px) of an input's shape; None where it may be any."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if len(sizes) != 4 or sizes[1] not in (3, None) or sizes[2] != sizes[3]:
        raise UserError(f"{path}: takes {list(shape)}, allowed for a teacher: one input [batch, 3, px, px]")
    return sizes[0], sizes[2]


def _hash_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Sidecar(Record):
    """FILE.json beside a file of precomputed embeddings: whose they are and how far they are."""

    teacher: str  # fingerprints
    source: str
    num_images: int
    embedding_size: int
    done: int = 0  # the first rows
    num_corrupt: int = 0  # rows of NaN
    corrupt: list[str] = []  # the first of them, with the reason


def sidecar_of(path):
    """The path of the Sidecar of precomputed embeddings."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def precompute(teacher, source, path, *, batch=64, progress=None):
    """embedding_ND, float16, memory-mapped: the teacher's embeddings of all images of a Source as they are, without augmentation.

    Kept at `path` (.npy) with a Sidecar; there already, it is only opened; interrupted, even by kill -9, it goes on where it
    was. progress(done, total). A corrupt image has a row of NaN; Sidecar.load(sidecar_of(path)) counts and names them.
    UserError where the file is of another teacher or source or somebody else's, where another process works at it, or
    where an embedding is not finite in float16.
    """
    path = pathlib.Path(path)
    lock = lock_folder(path)
    try:
        sidecar, embedding_ND = _begin(path, teacher, source)
        with concurrent.futures.ThreadPoolExecutor(min(8, num_cores())) as pool:  # cv2 decodes outside Python's lock

            def images(start):
                return [
                    pool.submit(_decoded, source, index, teacher.input_px)
                    for index in range(start, min(start + batch, source.num_images))
                ]

            ahead, saved_at = images(sidecar.done), time.monotonic()
            corrupt, num_corrupt = list(sidecar.corrupt), sidecar.num_corrupt
            for start in range(sidecar.done, source.num_images, batch):
                now, ahead = [future.result() for future in ahead], images(start + batch)
                stop = start + len(now)
                embedding_ND[start:stop] = _rows(teacher, source, start, now)
                bad = [f"{source.where(start + at)}: {one}" for at, one in enumerate(now) if isinstance(one, str)]
                corrupt, num_corrupt = (corrupt + bad)[:MAX_LISTED], num_corrupt + len(bad)
                if stop == source.num_images or time.monotonic() - saved_at >= SAVE_EVERY_S:
                    embedding_ND.flush()  # the rows before their count
                    counts = {"done": stop, "num_corrupt": num_corrupt, "corrupt": corrupt}
                    write_atomically(sidecar_of(path), sidecar.model_copy(update=counts).model_dump_json(indent=1))
                    saved_at = time.monotonic()
                if progress:
                    progress(stop, source.num_images)
    finally:
        lock.release()
    return np.lib.format.open_memmap(path, mode="r")


def _decoded(source, index, image_px):
    """The image, or in words why there is none."""
    try:
        return decode(source.read(index), image_px=image_px)
    except CorruptImageError as error:
        return first_line(error)


def _rows(teacher, source, start, images):
    """The rows of some images in float16, those of corrupt ones NaN."""
    rows_BD = np.full((len(images), teacher.embedding_size), np.nan, np.float16)
    good = [at for at, image in enumerate(images) if not isinstance(image, str)]
    if good:
        image_BHW3 = torch.from_numpy(np.stack([images[at] for at in good]))
        rows_BD[good] = teacher(image_BHW3).embedding_BD.half().cpu().numpy()
    for at in good:
        if not np.isfinite(rows_BD[at]).all():
            raise UserError(
                f"teacher {teacher.where}: its embedding of {source.where(start + at)} is not finite in float16"
            )
    return rows_BD


def _begin(path, teacher, source):
    """(Sidecar, writable memmap) of the embeddings at `path`, begun or as they were left."""
    mine = Sidecar(
        teacher=teacher.fingerprint,
        source=source.fingerprint,
        num_images=source.num_images,
        embedding_size=teacher.embedding_size,
    )
    shape = mine.num_images, mine.embedding_size
    if not sidecar_of(path).exists():
        if path.exists():
            raise UserError(f"{path}: is there and holds no embeddings of zennas; choose another path")
        write_atomically(sidecar_of(path), mine.model_dump_json(indent=1))
    there = Sidecar.load(sidecar_of(path))
    for what in ("teacher", "source", "num_images", "embedding_size"):
        if getattr(there, what) != getattr(mine, what):
            raise UserError(
                f"{path}: holds embeddings of another {what} ({getattr(there, what)}, now {getattr(mine, what)}); "
                "choose another path, or remove it and its .json"
            )
    try:
        if there.done == 0:
            embedding_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            with open(path, "r+b") as file:  # a full disk is said now, and is no crash while rows are written
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        else:
            np.lib.format.open_memmap(path, mode="r")  # refuses a file cut short, which "r+" would lengthen with zeros
            embedding_ND = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be written, or is not what its .json says: {getattr(error, 'strerror', None) or error}"
        ) from None
    if embedding_ND.shape != shape or embedding_ND.dtype != np.float16:
        raise UserError(f"{path}: is not what its .json says; remove both to begin anew")
    return there, embedding_ND
