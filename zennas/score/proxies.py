"""Label-free proxies of accuracy: each a float of one untrained network, from random images and random weights alone.

(network, shape, batch, generator) -> float, as every row of SCORES. A Candidate or one of our Networks is scored as
built, shortcuts and attention kept, from the stem to the last block (the neck is the same for all); any other nn.Module
as it is, and it is given back with the weights and statistics it came with. All of them see the same start:
convolutions and fully connected layers ~ N(0, 2 / fan-in), biases 0, norms neutral and dividing by the batch's
statistics, PReLU at its initial slope, images ~ N(0, 1), drawn from the generator, on its device. FloatingPointError
where the output overflows or does not depend on the images. UserError for a batch of one: norms and kernels need
several images.

A network's blocks are what its longest container holds: the children with a convolution inside of the nn.Sequential (or
nn.ModuleList) that has most of them; of ours, the stem and every block.
"""

# B images, C channels, HW map, N = B*H*W positions, U activations' units

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from zennas.records import UserError
from zennas.score.modules import finite, given_back
from zennas.space import network as networks
from zennas.space.candidate import Candidate
from zennas.space.families.table import family_of
from zennas.space.shape import Shape

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
ACTIVATIONS = (nn.ReLU, nn.PReLU, nn.LeakyReLU, nn.ReLU6)


def naswot(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """log |det K|, K_BB how many units answer alike (both above or both below zero) to two images: are images told
    apart?

    Source: Mellor et al. 2021 (NASWOT), arXiv:2006.04647. Theirs are images of the data set; ours are noise.
    """
    with seen(network, shape, batch, generator) as pass_:
        kernel_BB = sum(_agreements(into_BU) for into_BU in pass_.signs())
    return finite(torch.linalg.slogdet(kernel_BB.double()).logabsdet, "NASWOT")


def _agreements(sign_BU):
    on_BU = sign_BU.float()
    return on_BU @ on_BU.T + (1 - on_BU) @ (1 - on_BU).T


def swap(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """How many different answers the units give: distinct rows of signs over the batch, of all units of all
    activations.

    It saturates at 2^batch: 16 images are few for networks of more than some ten thousand units.
    Source: Peng et al. 2024 (SWAP), arXiv:2403.04161. Their regularisation, a bell curve over the parameters
    round a wished size, is left out: a latency budget wishes no number of parameters.
    """
    with seen(network, shape, batch, generator) as pass_:
        code_UK = torch.cat([_packed(sign_BU) for sign_BU in pass_.signs()])
    return float(len(code_UK.unique(dim=0) if code_UK.shape[1] > 1 else code_UK.unique()))


def _packed(sign_BU, bits=62):
    """code_UK: each unit's signs over the batch as integers of up to 62 bits."""
    return torch.stack(
        [
            (part_bU.long() << torch.arange(len(part_bU), device=part_bU.device)[:, None]).sum(0)
            for part_bU in sign_BU.split(bits)
        ],
        1,
    )


def meco(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Sum over the convolutions of the smallest eigenvalue of their channels' correlation, over the positions of one
    image.

    0 for a convolution of more channels than positions: behind the third halving of a small image it says nothing.
    Source: Jiang et al. 2023 (MeCo), NeurIPS; theirs takes every layer's output, ours the convolutions'. A channel that
    does not vary counts as correlated with none, as in their code.
    """
    with seen(network, shape, batch, generator) as pass_:
        values = [_smallest(layer.output[0].flatten(1)) for layer in pass_.convolutions]
    return finite(sum(values), "MeCo")


def _smallest(row_CN):
    if row_CN.shape[0] >= row_CN.shape[1]:
        return 0.0
    return torch.linalg.eigvalsh(correlation(row_CN).double())[0].clamp_min(0.0)


def correlation(row_CN: torch.Tensor) -> torch.Tensor:
    """The Pearson correlations _CC of rows _CN (or of a batch of such); a row that does not vary has 0 with all and
    itself.
    """
    row_CN = row_CN - row_CN.mean(-1, keepdim=True)
    norm_C1 = row_CN.norm(dim=-1, keepdim=True)
    row_CN = torch.where(norm_C1 > 0, row_CN / norm_C1, 0.0)
    return row_CN @ row_CN.mT


def near(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Sum of the effective ranks of what goes into and comes out of the activations, channels against positions.

    Effective rank: exp of the entropy of the singular values over their sum. Source: Husistein et al. 2025 (NEAR),
    arXiv:2408.08776. Theirs samples as many rows as there are columns; ours takes all positions.
    """
    with seen(network, shape, batch, generator) as pass_:
        ranks = [effective_rank(rows(x)) for layer in pass_.activations for x in (layer.into, layer.output)]
    return finite(sum(ranks), "NEAR")


def effective_rank(row_NC: torch.Tensor) -> float:
    """exp of the entropy of the singular values over their sum. 0 for zeros.

    >>> round(effective_rank(torch.eye(3)), 4)
    3.0
    """
    gram = row_NC.T @ row_NC if row_NC.shape[0] >= row_NC.shape[1] else row_NC @ row_NC.T
    singular = torch.linalg.eigvalsh(gram.double()).clamp_min(0.0).sqrt()
    return math.exp(entropy(singular)) if singular.sum() > 0 else 0.0


def az_expressivity(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Sum over the blocks of the entropy of their features' principal components: are all channels used?

    Source: Lee and Ham 2024 (AZ-NAS), arXiv:2403.19232.
    """
    with seen(network, shape, batch, generator) as pass_:
        return finite(sum(_expressivities(pass_.blocks)), "expressivity")


def az_progressivity(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """The smallest step of expressivity from block to block: does the network grow richer with depth?

    Source: AZ-NAS. ValueError for a network of one block.
    """
    with seen(network, shape, batch, generator) as pass_:
        entropies = _expressivities(_several(pass_.blocks))
        return finite(min(after - before for before, after in itertools.pairwise(entropies)), "progressivity")


def _expressivities(blocks):
    entropies = []
    for feature in blocks:
        row_NC = rows(feature)
        row_NC = row_NC - row_NC.mean(0)
        # The smaller of both Grams has the same eigenvalues other than 0.
        gram = row_NC.T @ row_NC if row_NC.shape[0] >= row_NC.shape[1] else row_NC @ row_NC.T
        entropies.append(entropy(torch.linalg.eigvalsh(gram.double())))
    return entropies


def az_trainability(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Mean over the blocks of 2 - s - 1/s, s the spectral norm of how a block maps random gradients back: 0 at best.

    s is of the mean outer product of a gradient of random signs behind a block and what it becomes in front of it.
    Source: AZ-NAS. ValueError for a network of one block, or whose blocks do not follow one another.
    """
    with seen(network, shape, batch, generator, gradients=True) as pass_:
        values = []
        for behind, before in pulled_back(pass_.blocks, generator):
            stride = before.shape[-1] // behind.shape[-1] if behind.dim() == 4 else 1
            before = nn.functional.pixel_unshuffle(before, stride) if stride > 1 else before
            spectral = torch.linalg.matrix_norm(rows(before).T @ rows(behind) / len(rows(behind)), ord=2)
            values.append(2 - float(spectral) - 1 / (float(spectral) + 1e-6))
    return finite(sum(values) / len(values), "trainability")


def pulled_back(
    blocks: Sequence[torch.Tensor], generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(a gradient of random signs behind a block, what it becomes in front of the block) for each but the first, last
    first.
    """
    for before, behind in reversed(list(itertools.pairwise(_several(blocks)))):
        sign = torch.randint(0, 2, behind.shape, generator=generator, device=generator.device) * 2.0 - 1.0
        (gradient,) = torch.autograd.grad(behind, before, sign, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "a block of this network does not see the one before it: there is no gradient between them"
            )
        yield sign, gradient


def _several(blocks):
    if len(blocks) < 2:
        raise ValueError(f"this score compares the blocks of a network, and this one has {len(blocks)}")
    return blocks


def synflow(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """log of the sum over all weights of |weight * gradient|, where every weight is positive and the image all ones.

    Norms let pass what comes. `batch` is not used. Weights are |U(-b, b)|, b = fan-in^-1/2: PyTorch's own start, as
    there.
    Source: Tanaka et al. 2020 (SynFlow), arXiv:2006.05467; as a proxy, Abdelfattah et al. 2021, arXiv:2101.08134. We
    take the log, and divide each block's output by its mean and put that back, so that depth does not overflow: the
    same where a network is homogeneous (attention, whose sigmoid is not, then answers to maps of mean 1).
    """
    flow = synaptic_flow(network, shape, generator)
    return finite(flow.log_scale + math.log(sum(flow.flows)), "SynFlow")


class Flow(NamedTuple):
    """What SynFlow sees: the flow through every convolution and fully connected layer, the sum of the output, in one
    scale.
    """

    flows: list[float]
    num_weights: list[int]
    output: float
    log_scale: float


def synaptic_flow(network: Candidate | nn.Module, shape: Shape, generator: torch.Generator) -> Flow:
    """The Flow of a network. FloatingPointError where nothing arrives."""
    logs = []

    def rescaled(_part, _inputs, output):
        scale = output.detach().mean()
        if not scale > 0:
            raise FloatingPointError("nothing flows through this network: an output is all zero")
        logs.append(math.log(float(scale)))
        return output / scale

    with _as_new(network, shape, generator) as module, contextlib.ExitStack() as stack:
        layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        for part in module.modules():
            if isinstance(part, NORMS):
                part.forward = _same
                stack.callback(delattr, part, "forward")
        for part in _blocks_of(module):
            stack.callback(part.register_forward_hook(rescaled).remove)
        weights = [part.weight for part in layers]
        for weight in weights:
            with torch.no_grad():
                weight.uniform_(0.0, weight[0].numel() ** -0.5, generator=generator)
            weight.requires_grad_(True)
        size = (1, _num_channels(module, shape), *shape.hw)
        output = module(torch.ones(size, device=generator.device)).sum()
        gradients = torch.autograd.grad(output, weights, allow_unused=True)
        output = float(output.detach())
        flows = [
            0.0 if gradient is None else float((weight.detach() * gradient).sum())
            for weight, gradient in zip(weights, gradients, strict=True)
        ]
    if not math.isfinite(output) or not sum(flows) > 0:
        raise FloatingPointError(f"SynFlow: the output is {output}, the flow {sum(flows)}")
    return Flow(flows, [weight.numel() for weight in weights], output, sum(logs))


def _same(x, *_):
    return x


class Layer(NamedTuple):
    """A layer that ran: what went into it and what came out."""

    module: nn.Module
    into: torch.Tensor
    output: torch.Tensor


class Seen(NamedTuple):
    """What one pass of random images through a freshly drawn network leaves."""

    image_BCHW: torch.Tensor
    convolutions: list[Layer]  # in the order in which they ran
    linears: list[Layer]
    activations: list[Layer]
    blocks: list[torch.Tensor]  # their outputs
    output: torch.Tensor

    def signs(self) -> list[torch.Tensor]:
        """Whether each unit of each activation is above zero, _BU. ValueError for a network without activations."""
        if not self.activations:
            raise ValueError(
                "this score reads the signs before ReLU, PReLU or LeakyReLU modules; this network has none"
            )
        return [layer.into.flatten(1) > 0 for layer in self.activations]


@contextlib.contextmanager
def seen(
    network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator, *, gradients: bool = False
) -> Iterator[Seen]:
    """The Seen of a network; with `gradients`, everything in it is differentiable in the image (not in the weights)."""
    if batch < 2:
        raise UserError(f"batch: given {batch}; this score compares images and needs at least 2")
    with _as_new(network, shape, generator) as module, contextlib.ExitStack() as hooks:
        ran = {nn.Conv2d: [], nn.Linear: [], ACTIVATIONS: []}
        for (kind, layers), part in itertools.product(ran.items(), module.modules()):
            if isinstance(part, kind):
                hooks.callback(part.register_forward_hook(functools.partial(_keep, layers)).remove)
        blocks = []
        for part in _blocks_of(module):
            hooks.callback(part.register_forward_hook(lambda _, inputs, output: blocks.append(output)).remove)
        size = (batch, _num_channels(module, shape), *shape.hw)
        image_BCHW = torch.randn(size, generator=generator, device=generator.device)
        with torch.set_grad_enabled(gradients):
            output = module(image_BCHW.requires_grad_(gradients))
        _check(output)
        yield Seen(image_BCHW, *ran.values(), blocks, output)


def _keep(layers, module, inputs, output):
    layers.append(Layer(module, inputs[0], output))


def _check(output):
    """FloatingPointError where the output is not finite or the same for all images."""
    output = output.detach()
    if not bool(torch.isfinite(output).all()):
        raise FloatingPointError("the activations of this network overflow")
    if bool((output == output[:1]).all()):
        raise FloatingPointError("the output of this network does not depend on its input")


@contextlib.contextmanager
def _as_new(network, shape, generator):
    """The module to score, in train mode with weights of its own, on the generator's device; given back as it came."""
    candidate = network if isinstance(network, Candidate) else networks.candidate_of(network)
    if candidate is not None:
        built = networks.on_meta(candidate, shape)
        module = family_of(candidate).backbone(built).to_empty(device=generator.device)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        _redraw(module, generator)
        yield module.train()
        return
    with given_back(network):
        _redraw(network, generator)
        yield network


def _redraw(module, generator):
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.normal_(0.0, math.sqrt(2 / part.weight[0].numel()), generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, (*NORMS, nn.PReLU)):
                part.reset_parameters()


def _blocks_of(module):
    """The children with a convolution inside of the container that has most of them, the outermost of equals."""
    most = []
    for part in module.modules():
        if isinstance(part, nn.Sequential | nn.ModuleList):
            children = [child for child in part if any(isinstance(module, nn.Conv2d) for module in child.modules())]
            most = children if len(children) > len(most) else most
    return most


def _num_channels(module, shape):
    """Of the images that a module takes: those of its first convolution, the Shape's where it has none."""
    return next((part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)), shape.channels)


def rows(feature: torch.Tensor) -> torch.Tensor:
    """row_NC of a feature BCHW (or BC): every position of every image is a row."""
    return feature.movedim(1, -1).flatten(0, -2)


def entropy(value_K: torch.Tensor) -> float:
    """Of nonnegative values over their sum; 0 where all are 0, values below 0 count as 0."""
    share_K = value_K.clamp_min(0.0)
    share_K = share_K / share_K.sum().clamp_min(torch.finfo(share_K.dtype).tiny)
    return float(torch.special.entr(share_K).sum())
