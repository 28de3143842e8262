"""Model: a trained network of any origin, images in, embeddings out; it never learns.

A teacher is one, and so is whatever `zennas evaluate` is asked about.
"""

# B faces, D embedding size, H height, W width

import concurrent.futures
import copy
import hashlib
import math
import pathlib
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import onnx
import torch
import torch.nn.functional as F
from torch import nn

from zennas.checker import flat, outside_files
from zennas.data.inputs import in_channels
from zennas.embed.checkpoint import ACCEPTED, file_of, load_network
from zennas.embed.features import Features, attention_of
from zennas.export.onnx_file import open_session
from zennas.names import text_path
from zennas.provenance import num_cores
from zennas.records import UserError, first_line
from zennas.space.shape import DEFAULT_HW, height_and_width, sides


class Model:
    """Images in, Features out. No nn.Module: no optimizer, no `train()` and no checkpoint of a student finds it.

    input_hw: height and width of the images it is called with. embedding_size. bgr: whether it is given BGR.
    normalisation: what its images go through, in words.
    fingerprint: of everything its answers depend on.
    """

    def __init__(
        self,
        origin: Any,
        where: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool,
        device: torch.device,
        image_hw: tuple[int, int],
        resize: bool,
        dtype: torch.dtype | None,
    ):
        self._origin, self.where, self.device, self._dtype = origin, where, device, dtype
        self.input_hw, self._resize, self.bgr = origin.input_hw or image_hw, resize, bgr
        self._fixed_batch = origin.fixed_batch
        self.normalisation = in_words(mean, std)
        self._mean_311, self._std_311 = (torch.tensor(value, device=device).view(3, 1, 1) for value in (mean, std))
        says = [origin.fingerprint, self.input_hw, *map(float, mean), *map(float, std), bgr, resize, str(dtype)]
        self.fingerprint = hashlib.sha256(repr(says).encode()).hexdigest()[:16]
        self.embedding_size = self._probe()

    def __call__(self, image_BHW3: torch.Tensor) -> Features:
        """The Features of uint8 RGB images, on the model's device, without gradient.

        The images are of input_hw; with `resize`, of any size.

        UserError for images of another size.
        """
        # No inference_mode: what it makes cannot be saved for a student's backward.
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self._answer(self._prepared(image_BHW3))

    def _prepared(self, image_BHW3):
        if image_BHW3.dtype != torch.uint8 or image_BHW3.ndim != 4 or image_BHW3.shape[3] != 3:
            raise UserError(
                f"{self.where}: given images {tuple(image_BHW3.shape)} of {image_BHW3.dtype}, allowed: (B, H, W, 3) "
                f"of uint8"
            )
        given_hw = tuple(image_BHW3.shape[1:3])
        if given_hw != self.input_hw and not self._resize:
            raise UserError(
                f"{self.where}: takes images of {sides(self.input_hw)}, given {sides(given_hw)}; "
                f"decode the faces at {sides(self.input_hw)} for it as well, or let it resize them"
            )
        image_B3HW = (image_BHW3.flip(3) if self.bgr else image_BHW3).to(self.device).permute(0, 3, 1, 2).float()
        if given_hw != self.input_hw:
            image_B3HW = F.interpolate(image_B3HW, self.input_hw, mode="bilinear", antialias=True, align_corners=False)
        return in_channels((image_B3HW - self._mean_311) / self._std_311, self._origin.channels).contiguous()

    def _answer(self, image_B3HW):
        fixed, num_faces = self._fixed_batch, len(image_B3HW)
        size = fixed or math.ceil(num_faces / self._origin.at_once)
        if not fixed and size >= num_faces:
            return self._checked(image_B3HW)
        if fixed:
            image_B3HW = torch.cat([image_B3HW, image_B3HW[-1:].expand(-num_faces % fixed, -1, -1, -1)])
        pieces = [piece.contiguous() for piece in image_B3HW.split(size)]
        if self._origin.at_once > 1 and len(pieces) > 1:
            with concurrent.futures.ThreadPoolExecutor(self._origin.at_once) as pool:
                answers = list(pool.map(self._checked, pieces))
        else:
            answers = [self._checked(piece) for piece in pieces]
        return Features(torch.cat([answer.embedding_BD for answer in answers])[:num_faces])

    def _checked(self, image_B3HW):
        """The Features of one run; UserError where it fails, or does not answer each image with an embedding."""
        num = len(image_B3HW)
        try:
            features = self._origin.answer(image_B3HW)
            if isinstance(features.embedding_BD, torch.Tensor):
                features = features._replace(embedding_BD=flat(features.embedding_BD))
            embedding_BD = features.embedding_BD
        except Exception as error:  # noqa: BLE001 - a foreign network raises whatever it likes, also out of memory
            raise UserError(
                f"{self.where}: fails on {num} images of {sides(self.input_hw)}: {first_line(error)}"
            ) from None
        if not isinstance(embedding_BD, torch.Tensor) or embedding_BD.ndim != 2 or len(embedding_BD) != num:
            shape = tuple(embedding_BD.shape) if isinstance(embedding_BD, torch.Tensor) else type(embedding_BD).__name__
            raise UserError(
                f"{self.where}: answers {num} images with {shape}, allowed: a tensor ({num}, embedding size)"
            )
        return features

    def _probe(self):
        """The embedding size, as two black images show it; UserError where it does not do what a model does.

        A file may say that it takes any batch, and have the shape of one image in its nodes: then one image is given.
        """
        image_BHW3 = torch.zeros(2, *self.input_hw, 3, dtype=torch.uint8)
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            image_B3HW = self._prepared(image_BHW3)
            if self._fixed_batch is None:
                try:
                    self._checked(image_B3HW)  # in one run
                except UserError as error:
                    try:
                        self._checked(image_B3HW[:1].contiguous())
                    except UserError:
                        raise error from None
                    self._fixed_batch = 1
            embedding_BD = self._answer(image_B3HW).embedding_BD
        if not embedding_BD.isfinite().all():
            raise UserError(f"{self.where}: its embedding of a black image is not finite: a training that diverged?")
        return embedding_BD.shape[1]


def in_words(mean: Sequence[float], std: Sequence[float]) -> str:
    """How (image - mean) / std reads.

    >>> in_words((127.5,) * 3, (127.5,) * 3), in_words((1, 2, 3), (4, 5, 6)), in_words((0, 0, 0), (1, 1, 1))
    ('(x - 127.5) / 127.5', '(x - 1, 2, 3) / (4, 5, 6)', '0..255 as they are')
    """
    of_image, by = (", ".join(f"{value:g}" for value in _once(three)) for three in (mean, std))
    return (
        "0..255 as they are" if (of_image, by) == ("0", "1") else f"(x - {of_image}) / {f'({by})' if ',' in by else by}"
    )


def _once(three):
    return three[:1] if len(set(three)) == 1 else three


def usable_device(device: str | None) -> str:
    """The device that --device asks for; None: cuda where there is a GPU. UserError for a GPU that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: torch {torch.__version__} finds no GPU here; allowed: cpu")
    return device


class Origin(NamedTuple):
    """What an opened file or module offers a Model."""

    answer: Any  # image_B3HW, normalised -> Features
    fingerprint: str
    input_hw: tuple | None = None  # where it says so itself
    fixed_batch: int | None = None  # where it takes no other
    channels: int = 3  # of the images it takes: RGB, or 1 for grey
    at_once: int = 1  # how many parts of a batch are answered best at one time


def open_model(
    source: pathlib.Path | str | nn.Module,
    *,
    mean: Sequence[float] = (127.5,) * 3,
    std: Sequence[float] = (127.5,) * 3,
    bgr: bool = False,
    device: str = "cpu",
    image_px: int | tuple[int, int] | None = None,
    resize: bool = False,
    dtype: torch.dtype | None = torch.float32,
    trusted: bool = False,
) -> Model:
    """The Model in a file or folder, or an nn.Module B3HW -> BD (which is copied).

    A file is a zennas checkpoint, weights of another project (namings.py), ONNX (on the GPU where the installed ONNX
    Runtime can), a torch.export program or TorchScript; its content decides, not its name. The last two can run code
    of their author's: refused unless trusted.
    mean, std: (image - mean) / std is what it was trained on, per channel in RGB order, images in 0..255; bgr: in BGR
    order, mean and std too. image_px: the side of its images, or (height, width), where it does not say itself; None:
    DEFAULT_HW. resize: images of another size are scaled to its own (A-SKD: the teacher sees more than the student);
    without, they are refused. dtype: of autocast on the way; float32: none. UserError where the file is none of these,
    or the network fails or gives no embeddings.
    """
    device = torch.device(device)
    if len(mean) != 3 or len(std) != 3 or not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise UserError(f"mean {mean} and std {std}: allowed: three numbers each, std above 0")
    image_hw = DEFAULT_HW if image_px is None else height_and_width(image_px)
    if isinstance(source, nn.Module):
        origin, where = _module_origin(copy.deepcopy(source), device), type(source).__name__
    else:
        where = file_of(source)
        kind = kind_of(where)
        if kind in MAY_RUN_CODE and not trusted:
            raise UserError(
                f"{where}: is {MAY_RUN_CODE[kind]}, which can run code of its author's when it is opened; "
                "give it as FILE,trusted=yes if it is your own, or export it to ONNX"
            )
        origin = ORIGINS[kind](where, device)
    return Model(
        origin, where, mean=mean, std=std, bgr=bgr, device=device, image_hw=image_hw, resize=resize, dtype=dtype
    )


PICKLE = b"\x80"  # what a pickle begins with; no field of protobuf has that number


def kind_of(path: pathlib.Path) -> str:
    """The row of ORIGINS for a file, by what is in it: torch's files are zip archives, before 1.6 pickles; ONNX is
    neither.
    """
    try:
        with open(path, "rb") as file:
            begins = file.read(2)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if begins != b"PK":
        return "checkpoint" if begins[:1] == PICKLE else "onnx"
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


def fingerprint_of(network: nn.Module) -> str:
    """The digest of the weights of a network: equal ones answer alike."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, weight in network.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _module_origin(network, device):
    fingerprint = fingerprint_of(network)
    network = network.to(device).eval().requires_grad_(False)

    def answer(image_B3HW):
        with attention_of(network) as maps:
            return Features(network(image_B3HW), maps.take())

    shape = getattr(network, "input_shape", None)
    return Origin(answer, fingerprint, tuple(shape[1:]) if shape else None, channels=shape[0] if shape else 3)


def _onnx_origin(path, device):
    files = [path, *_beside(path)]
    try:
        wanted = {"CUDAExecutionProvider": {"device_id": device.index or 0}} if device.type == "cuda" else {}
        wanted["CPUExecutionProvider"] = {}
        # On a processor one thread for each part of a batch, and as many parts at a time as there are cores.
        at_once = num_cores() if device.type == "cpu" else 1
        options = {"provider_options": list(wanted.values()), "threads": 1 if device.type == "cpu" else 0}
        session = open_session(str(path), providers=list(wanted), **options)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated types for what is no network
        raise UserError(f"{path}: cannot be opened as a network: {first_line(error)}; allowed: {ACCEPTED}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    batch, channels, input_hw = _sizes_of(shape, path)
    if inputs[0].type != "tensor(float)" or len(outputs) != 1:
        raise UserError(
            f"{path}: takes {inputs[0].type} and gives {len(outputs)} outputs; allowed: tensor(float) and one"
        )

    def answer(image_B3HW):
        (embedding_BD,) = session.run(None, {inputs[0].name: image_B3HW.cpu().numpy()})
        return Features(torch.from_numpy(embedding_BD).to(device))

    return Origin(answer, " ".join(map(_hash_of, files)), input_hw, batch, channels, at_once)


def _beside(path):
    """The files in which an ONNX file keeps weights. UserError where one does not lie beside or below it: the file of a
    stranger reads nothing else. Only newer releases of ONNX Runtime look after that themselves."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf's types, which onnx passes on
        raise UserError(f"{path}: cannot be opened as a network: {first_line(error)}; allowed: {ACCEPTED}") from None
    folder = path.absolute().parent.resolve()
    places = outside_files(model)
    for place in places:
        file = path.parent / place
        if not file.resolve().is_relative_to(folder):  # a link may lead out too
            raise UserError(f"{path}: keeps weights in {place}, which does not lie in its folder; it was not opened")
        if not file.is_file():
            raise UserError(f"{path}: keeps weights in {place}, which is not beside it")
    return [path.parent / place for place in places]


def _pt2_origin(path, device):
    try:
        program = torch.export.load(text_path(path))
        module = program.module().to(device).requires_grad_(False)
        (name,) = program.graph_signature.user_inputs
        (node,) = [node for node in program.graph.nodes if node.name == name]
        shape = [size if isinstance(size, int) else None for size in node.meta["val"].shape]
    except Exception as error:  # noqa: BLE001 - torch.export raises whatever it likes
        raise UserError(
            f"{path}: cannot be opened as a torch.export program of one input: {first_line(error)}"
        ) from None
    batch, channels, input_hw = _sizes_of(shape, path)
    return Origin(lambda image_B3HW: Features(module(image_B3HW)), _hash_of(path), input_hw, batch, channels)


def _torchscript_origin(path, device):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(text_path(path), map_location=device).eval()
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be opened as TorchScript: {first_line(error)}") from None
    for weight in module.parameters():
        weight.requires_grad_(False)
    return Origin(lambda image_B3HW: Features(module(image_B3HW)), _hash_of(path))


MAY_RUN_CODE = {"pt2": "a torch.export program", "torchscript": "TorchScript"}

# kind -> (path, device) -> Origin
ORIGINS = {
    "checkpoint": _checkpoint_origin,
    "onnx": _onnx_origin,
    "pt2": _pt2_origin,
    "torchscript": _torchscript_origin,
}


def _sizes_of(shape, path):
    """(batch, channels, (height, width)) of an input's shape; None where it may be any (of channels: 3)."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if len(sizes) != 4 or sizes[1] not in (1, 3, None) or (sizes[2] is None) != (sizes[3] is None):
        raise UserError(f"{path}: takes {list(shape)}, allowed: one input [batch, 3 or 1, height, width]")
    return sizes[0], sizes[1] or 3, (sizes[2], sizes[3]) if sizes[2] else None


def _hash_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
