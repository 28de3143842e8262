"""Partial FC: class centres shared out over ranks, of which a step compares its images with a sample.

Time and memory of a step grow with the sampled centres. Nothing as large as all centres is made: neither a gradient nor
a normalised copy, and of cosines there is one matrix, in which their gradient replaces them. The softmax and the
margins go over it in chunks that stay in the cache, so that a loss costs little beside the three matrix products.

Source: An et al. 2021 (arXiv:2010.05222) and 2022 (arXiv:2203.15565); insightface's partial_fc_v2.py keeps a dense
gradient, this does not.

How to read it: `PartialFC.begin` draws the classes of a step (Sample). Calling the head runs _SampledSoftmax, whose
forward pass (_forward_backward) already makes both gradients: that of the images waits for `backward`, that of the
centres is added to the sample. `step` hands the latter to the centres' optimizer. Ranks meet to gather the images and,
over the classes of all of them, to reduce the own cosine, the own logit and the sum of exponentials.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch

from zennas.compiled import Compiled
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.identity.centres import CentreOptimizer, blocks_of, inverse_norm
from zennas.tasks.identity.losses import LOSSES, State, applies, bound, call, initial_buffers, knobs_of
from zennas.track import lookup

CENTRE_STD = 0.01  # insightface's partial_fc_v2.py
INIT_ROWS = 4096  # classes drawn from one generator, so that a centre starts alike however many ranks there are
LEAST_LOGIT = -1e30  # of a chunk whose classes are all filtered out, so that its exponentials are zeros, not NaN
# Images times classes of a step from which on compiling pays: eager, a processor takes seconds over them, a GPU tens of
# milliseconds; compiling takes half a minute, once.
COMPILE_FROM = 1 << 26
CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}  # of cosines worked on at a time; on a processor about its L2 cache


# b images of this rank, B of all ranks, C classes of this rank, S sampled ones, K sub-centres of a class, D embedding
# size
class PartialFC:
    """The classification head of one rank: `begin` a step, call it on embeddings, let them flow back, `step`.

    num_identities: over all ranks. sampling_rate: share of its centres that a rank compares with, the identities of the
    step always among them. count_C: images of every identity (all ranks'), for the losses that need them.
    filter_threshold: a negative more similar than this is left out, for noisy labels (Partial FC's robust variant;
    insightface uses 0.4). correct_sampling: weigh the sampled negatives by one over their probability, so that the
    expected softmax is the whole one's; our choice to offer, off as in the sources. compile: fuse the margins and the
    softmax with torch.compile; None: where a step compares so many images and classes that it pays.
    """

    def __init__(
        self,
        num_identities: int,
        embedding_size: int,
        *,
        loss: str = "balanced_curricular",
        knobs: dict | None = None,
        optimizer: str = "sgd",
        optimizer_knobs: dict | None = None,
        sampling_rate: float = 1.0,
        count_C: np.ndarray | None = None,
        filter_threshold: float | None = None,
        correct_sampling: bool = False,
        seed: int = 0,
        ranks: Ranks | None = None,
        compile: bool | None = None,
    ):
        self.ranks = ranks or Ranks()
        if num_identities < self.ranks.num_ranks:
            raise UserError(
                f"{num_identities} identities cannot be shared out over {self.ranks.num_ranks} ranks; "
                f"start at most {num_identities}"
            )
        if not 0 < sampling_rate <= 1:
            raise UserError(f"sampling_rate: given {sampling_rate}, allowed: above 0, at most 1")
        self.loss, self.knobs = lookup(LOSSES, loss, "loss"), knobs_of(loss, knobs)
        if self.loss.needs_counts and count_C is None:
            raise UserError(f"loss '{loss}' needs the number of images of every identity")
        self.num_identities, self.embedding_size, self.seed = num_identities, embedding_size, seed
        self.sampling_rate, self.filter_threshold = sampling_rate, filter_threshold
        self.correct_sampling = correct_sampling
        self.num_subcentres = self.knobs["subcentres"]
        self.first, self.num_local = share(num_identities, self.ranks)
        device = self.ranks.device
        self.centre_CKD = _initial(self.first, self.num_local, self.num_subcentres, embedding_size, seed).to(device)
        self.optimizer = CentreOptimizer(
            optimizer,
            optimizer_knobs,
            num_rows=self.num_local * self.num_subcentres,
            embedding_size=embedding_size,
            device=device,
        )
        self.log_count_C = None
        if self.loss.needs_counts:
            mine = torch.as_tensor(np.asarray(count_C[self.first : self.first + self.num_local]))
            # An identity without images is never a target; as if it had one, it is the least of the negatives.
            self.log_count_C = mine.clamp(min=1).to(device, torch.float32).log()
        self.buffers = initial_buffers(loss, device=device)
        self.num_steps, self.compile, self._kernel = 0, compile, None
        self._work, self._sample, self._before = {}, None, self.buffers

    @property
    def num_sampled(self) -> int:
        """Classes that a step of this rank compares with (more only where its images have more identities)."""
        return self.num_local if self.sampling_rate == 1 else max(1, int(self.sampling_rate * self.num_local))

    def begin(self, label_b: torch.Tensor) -> None:
        """Sample the classes of a step whose images, all micro-batches together, have these labels (this rank's)."""
        self._sample = Sample.all(self) if self.sampling_rate == 1 else Sample.draw(self, self.ranks.gather(label_b))
        self._before = self.buffers

    def __call__(
        self, embedding_bD: torch.Tensor, label_b: torch.Tensor, *, weight: float = 1.0, epoch: float = 0.0
    ) -> torch.Tensor:
        """`weight` times the mean loss over the images of all ranks, for this rank's embeddings and labels.

        Gradients reach embedding_bD when it is called backwards on; those of the centres are kept here for `step`, and
        are multiplied by `weight` alone (no loss scaling of mixed precision reaches them). epoch: how far the training
        is, for losses that begin late. All ranks give equally many images.
        """
        if self._sample is None:
            self.begin(label_b)
        with torch.autocast(embedding_bD.device.type, enabled=False):
            embedding_bD = embedding_bD.float()
            unit_bD = torch.nn.functional.normalize(embedding_bD)
            norm_b = embedding_bD.detach().norm(dim=1)
            return _SampledSoftmax.apply(unit_bD, self, label_b, norm_b, weight, epoch)

    def step(self, lr: float) -> None:
        """Move the sampled centres along the gradients since `begin`."""
        # Whoever forgets to begin draws anew: a sample lives for one step.
        sample, self._sample = self._sample, None
        if sample.num_passes:
            rows = self.centre_CKD.view(-1, self.embedding_size)
            self.optimizer.step(rows, sample.unit_RD, sample.grad_RD, row_R=sample.row_R, lr=lr, ranks=self.ranks)
        self.num_steps += 1

    def discard(self) -> None:
        """Forget the gradients since `begin`, and what the running values learnt from them: the step is not taken."""
        self._sample, self.buffers = None, self._before
        self.num_steps += 1

    def kernel(self, num_images: int) -> Callable:
        """The pass over a chunk of classes, compiled where that pays; eager where this machine cannot compile."""
        if self._kernel is None:
            pass_over = functools.partial(
                _chunk, bound(self.loss.negatives, self.knobs), self.knobs["scale"], self.filter_threshold
            )
            pays = self.num_sampled * num_images >= COMPILE_FROM if self.compile is None else self.compile
            self._kernel = Compiled(pass_over, what="margins are", dynamic=True) if pays else pass_over
        return self._kernel

    def work(self, name: str, num_rows: int, num_columns: int) -> torch.Tensor:
        """A buffer kept from step to step. Allocating it each step costs a processor more than the margins do."""
        held = self._work.get(name)
        if held is None or held.numel() < num_rows * num_columns:
            held = self._work[name] = torch.empty(num_rows * num_columns, device=self.centre_CKD.device)
        return held[: num_rows * num_columns].view(num_rows, num_columns)

    def state(self) -> dict:
        """What a checkpoint holds of this rank: tensors whose first axis is its classes, and what all ranks share."""
        per_class = {"centre": self.centre_CKD}
        for name, values in self.optimizer.state.items():
            per_class[name] = values.view(self.num_local, self.num_subcentres, -1)
        if self.log_count_C is not None:
            per_class["log_count"] = self.log_count_C
        return {
            "per_class": per_class,
            "shared": {
                "buffers": {name: float(value) for name, value in self.buffers.items()},
                "steps": self.num_steps,
            },
        }

    def restore(self, shared: dict, read: Callable) -> None:
        """Take a checkpoint: its shared part, and read(name, first, last) -> that tensor's rows of classes
        first..last-1.
        """
        last = self.first + self.num_local
        for name, values in self.state()["per_class"].items():
            values.copy_(read(name, self.first, last))
        for name, value in shared["buffers"].items():
            self.buffers[name] = torch.tensor(value, device=self.centre_CKD.device)
        self.num_steps, self._sample = shared["steps"], None


class Sample:
    """The centres of one step: which, their directions, and the gradient that gathers for those."""

    def __init__(self, head: PartialFC, class_S: torch.Tensor | None, is_positive_S: torch.Tensor | None):
        self.class_S = class_S  # local numbers, rising; None: all
        self.num_classes = head.num_local if class_S is None else len(class_S)
        num_rows, size = self.num_classes * head.num_subcentres, head.embedding_size
        self.grad_RD, self.num_passes = head.work("grad", num_rows, size), 0
        self.row_R = None
        if class_S is not None:
            within_K = torch.arange(head.num_subcentres, device=class_S.device)
            self.row_R = (class_S[:, None] * head.num_subcentres + within_K).flatten()
        self.unit_RD, centre_ND = head.work("unit", num_rows, size), head.centre_CKD.view(-1, size)
        for block in blocks_of(num_rows, centre_ND.device):
            unit_RD = self.unit_RD[block]
            if class_S is None:
                unit_RD.copy_(centre_ND[block])
            else:
                torch.index_select(centre_ND, 0, self.row_R[block], out=unit_RD)
            unit_RD.mul_(inverse_norm(unit_RD))
        # What is added to the logits of each class, for its number of images and for the luck of being drawn.
        self.log_weight_S = head.log_count_C
        if class_S is not None and head.log_count_C is not None:
            self.log_weight_S = head.log_count_C[class_S]
        if head.correct_sampling and class_S is not None:
            drawn, negatives = int((~is_positive_S).sum()), head.num_local - int(is_positive_S.sum())
            extra_S = torch.where(is_positive_S, 0.0, float(np.log(max(1, negatives) / max(1, drawn))))
            self.log_weight_S = extra_S if self.log_weight_S is None else self.log_weight_S + extra_S

    @classmethod
    def all(cls, head: PartialFC) -> "Sample":
        return cls(head, None, None)

    @classmethod
    def draw(cls, head: PartialFC, label_B: torch.Tensor) -> "Sample":
        """The identities of the step and, up to the head's number, others drawn without replacement.

        Drawn on the processor from (seed, step, rank), so that a resumed run draws what an unbroken one would have.
        numpy's choice takes time with the number drawn: below a twentieth it keeps a set, above it fills an array of
        all.
        """
        mine = np.unique(label_B.cpu().numpy()) - head.first
        mine = mine[(mine >= 0) & (mine < head.num_local)]
        rng, chosen = np.random.default_rng((head.seed, head.num_steps, head.ranks.rank)), mine
        if len(mine) < head.num_sampled:
            drawn = rng.choice(head.num_local, head.num_sampled, replace=False, shuffle=False)
            chosen = np.union1d(drawn, mine)
            # The union may be too large by the positives that were not drawn: so many of the others are left out again.
            spare = len(chosen) - head.num_sampled  # at most as many as there are identities in the step
            if spare:
                negatives = np.delete(np.arange(len(chosen)), np.searchsorted(chosen, mine))
                chosen = np.delete(chosen, rng.choice(negatives, spare, replace=False))
        is_positive = np.zeros(len(chosen), bool)
        is_positive[np.searchsorted(chosen, mine)] = True
        device = head.centre_CKD.device
        return cls(head, torch.from_numpy(chosen).to(device), torch.from_numpy(is_positive).to(device))

    def columns(self, label_B: torch.Tensor, head: PartialFC) -> torch.Tensor:
        """The sampled class of each image among this rank's, or -1 where another rank has it."""
        local_B = label_B - head.first
        outside_B = (local_B < 0) | (local_B >= head.num_local)
        if self.class_S is None:
            return local_B.masked_fill(outside_B, -1)
        # class_S rises, so a search finds the place; a class beyond the last is clamped, and then fails the comparison.
        at_B = torch.searchsorted(self.class_S, local_B).clamp(max=self.num_classes - 1)
        return torch.where(outside_B | (self.class_S[at_B] != local_B), -1, at_B)


class _SampledSoftmax(torch.autograd.Function):
    """The loss, whose gradients are made along with it: there is one cosine matrix, and its gradient takes its
    place."""

    @staticmethod
    def forward(ctx, unit_bD, head, label_b, norm_b, weight, epoch):
        ranks = head.ranks
        unit_BD, label_B, norm_B = ranks.gather(unit_bD), ranks.gather(label_b), ranks.gather(norm_b)
        loss, grad_BD = _forward_backward(head, unit_BD, label_B, norm_B, weight, epoch, ctx.needs_input_grad[0])
        if grad_BD is not None:
            # Parallel training takes the mean of the ranks' gradients; the loss is the mean over the images of all of
            # them.
            ctx.save_for_backward(ranks.sum_of_mine(grad_BD) * ranks.num_ranks)
        return loss

    @staticmethod
    def backward(ctx, grad):
        (grad_bD,) = ctx.saved_tensors
        return grad_bD * grad, None, None, None, None, None


def _forward_backward(head, unit_BD, label_B, norm_B, weight, epoch, with_grad):
    """(loss, its gradient for unit_BD or None); that of the sampled centres is added to the sample's.

    Per chunk of classes: logits, exp(logits - their maximum m), and those times the slopes of the logits, which replace
    the cosines. When all chunks and ranks are through, exp(m - log sum) makes probabilities of them.
    """
    sample, ranks, loss, knobs = head._sample, head.ranks, head.loss, head.knobs
    num_images, num_sub = len(unit_BD), head.num_subcentres
    # 1. All cosines, one matrix product. Rows are classes, so that a chunk of classes lies in one piece of memory.
    # cosine_RB and cosine_SKB are two views of the same numbers: what is written through one is read through the other.
    cosine_RB = torch.mm(sample.unit_RD, unit_BD.t(), out=head.work("cosine", len(sample.unit_RD), num_images))
    cosine_SKB = cosine_RB.view(sample.num_classes, num_sub, num_images)
    size = max(1, CHUNK_BYTES[unit_BD.device.type] // (4 * num_images * num_sub))
    chunks = [slice(start, min(start + size, sample.num_classes)) for start in range(0, sample.num_classes, size)]

    # 2. The cosine of each image with its own class. One rank has that class, all others hold -1 and add a zero.
    column_B = sample.columns(label_B, head)
    target_B = ranks.sum_(_at(cosine_SKB, column_B))
    if loss.update and with_grad:
        head.buffers = call(loss.update, knobs, head.buffers, target_B, norm_B)
    # 3. What some losses do late in a training: move the label to the hardest other class where that fits better, then
    # punish the hardest class that is left. Both look at the raw cosines, so they come before step 5 writes over them.
    hardest_column_B = penalty_B = None
    if late := with_grad and applies(knobs, epoch):
        hardest_B, hardest_column_B = _hardest(cosine_SKB, chunks, column_B, ranks)
        moves_B = call(loss.relabel, knobs, target_B, hardest_B)
        column_B = torch.where(moves_B, hardest_column_B, column_B)
        target_B = torch.where(moves_B, hardest_B, target_B)
    if late and loss.penalty:
        hardest_B, hardest_column_B = _hardest(cosine_SKB, chunks, column_B, ranks)
        # Autograd is off inside a torch.autograd.Function; it is turned on for B numbers, not for the matrix.
        with torch.enable_grad():
            pair = target_B.clone().requires_grad_(), hardest_B.clone().requires_grad_()
            penalty_B = call(loss.penalty, knobs, *pair)
            pull_B, push_B = torch.autograd.grad(penalty_B.sum(), pair)

    # 4. The logit of the own class, with its slope. It has a margin, so it cannot come out of the pass over negatives.
    state = State(head.buffers, target_B)
    own_logit_B, slope_B = _own_logits(loss, knobs, state, norm_B)
    if sample.log_weight_S is not None:
        own_logit_B = own_logit_B + sample.log_weight_S[column_B.clamp(min=0)]
    own_logit_B = ranks.sum_(torch.where(column_B >= 0, own_logit_B, 0.0))

    # 5. A pass over each chunk h of classes. It keeps the largest logit m_h of each image and the sum of
    # exp(logit - m_h), and replaces the chunk's cosines by exp(logit - m_h) * slope. The softmax of the whole row is
    # not known yet, but it only scales this by a factor per image and chunk: the matrix is neither kept twice nor
    # computed again.
    kernel = head.kernel(num_images)
    highest_HB = unit_BD.new_empty(len(chunks), num_images)  # m of each chunk
    sum_HB = torch.empty_like(highest_HB)
    for number, chunk in enumerate(chunks):
        chunk_own_B = torch.where((column_B >= chunk.start) & (column_B < chunk.stop), column_B - chunk.start, -1)
        log_weight_C = None if sample.log_weight_S is None else sample.log_weight_S[chunk]
        highest_HB[number], sum_HB[number], times_slope_CB, nearest_CKB = kernel(
            cosine_SKB[chunk], chunk_own_B, own_logit_B, slope_B, state, log_weight_C
        )
        if with_grad:  # of the sub-centres of a class only the nearest made its logit, and has its gradient
            cosine_SKB[chunk] = (
                times_slope_CB[:, None] if nearest_CKB is None else times_slope_CB[:, None] * nearest_CKB
            )

    # 6. The softmax's denominator: over the chunks of this rank, then over ranks, each time relative to the largest.
    log_sum_B = torch.logsumexp(highest_HB + sum_HB.log(), 0)
    highest_B = ranks.max_(log_sum_B.clone())
    log_sum_B = ranks.sum_((log_sum_B - highest_B).exp_()).log_() + highest_B
    loss_B = log_sum_B - own_logit_B
    mean = weight * (loss_B if penalty_B is None else loss_B + penalty_B.detach()).mean()
    if not with_grad:
        return mean, None

    # 7. exp(m_h - log_sum) turns what step 5 left into probability * slope, which is the gradient of the cross-entropy
    # for every cosine but one: softmax minus the own class.
    weight_per_image = weight / num_images
    factor_HB = weight_per_image * (highest_HB - log_sum_B).exp_()
    for number, chunk in enumerate(chunks):
        cosine_SKB[chunk] *= factor_HB[number]
    # The cross-entropy's minus one at each image's own class, and the penalty's two gradients.
    _add_at(cosine_SKB, sample, unit_BD, column_B, -weight_per_image * slope_B)
    if penalty_B is not None:
        _add_at(cosine_SKB, sample, unit_BD, column_B, weight_per_image * pull_B)
        _add_at(cosine_SKB, sample, unit_BD, hardest_column_B, weight_per_image * push_B)
    # 8. The matrix is the gradient of the cosines now. One product takes it to the sampled centres, one to the images.
    # grad_RD is a buffer with old numbers in it: beta 0 writes over them, beta 1 adds.
    again = float(sample.num_passes > 0)  # a second micro-batch adds to the gradient of the first
    torch.addmm(sample.grad_RD, cosine_RB, unit_BD, beta=again, out=sample.grad_RD)
    sample.num_passes += 1
    return mean, cosine_RB.t() @ sample.unit_RD


def _own_logits(loss, knobs, state, norm_B):
    """(logit of each image's own class, but for its log count; its slope)."""
    with torch.enable_grad():
        own_B = state.target_B.clone().requires_grad_()
        logit_B = knobs["scale"] * call(loss.target, knobs, own_B, norm_B, state)
        (slope_B,) = torch.autograd.grad(logit_B.sum(), own_B)
    return logit_B.detach(), slope_B


def _chunk(negatives, scale, filter_threshold, cosine_CKB, own_B, own_logit_B, slope_B, state, log_weight_C):
    """Of a chunk of classes: (largest logit of each image, sum of exp(logit - largest), exp(logit - largest) times the
    slope of the logit [C, B], which sub-centre is the nearest [C, K, B] or None where there is but one).

    Pointwise but for two reductions, so that torch.compile makes two passes over memory of it.
    """
    nearest_CKB = None
    if cosine_CKB.shape[1] == 1:
        cosine_CB = cosine_CKB[:, 0]
    else:
        best = cosine_CKB.max(1)
        cosine_CB = best.values
        within_K1 = torch.arange(cosine_CKB.shape[1], device=cosine_CB.device)[:, None]
        nearest_CKB = within_K1 == best.indices[:, None]
    # The losses are written for images by classes; a transposed view costs nothing, here and below.
    changed_BC, slope_BC = negatives(cosine_CB.t(), state)
    logit_CB = scale * changed_BC.t()
    if log_weight_C is not None:
        logit_CB = logit_CB + log_weight_C[:, None]
    if filter_threshold is not None:  # before the own logit is placed, which is never filtered
        logit_CB = logit_CB.masked_fill(cosine_CB > filter_threshold, -torch.inf)
    logit_CB = _placed(logit_CB, own_B, own_logit_B)
    highest_B = logit_CB.amax(0).clamp(min=LEAST_LOGIT)
    exp_CB = (logit_CB - highest_B).exp()
    sum_B = exp_CB.sum(0)
    slope_CB = torch.ones_like(exp_CB) if slope_BC is None else slope_BC.t()
    times_slope_CB = exp_CB * _placed(scale * slope_CB, own_B, slope_B)
    return highest_B, sum_B, times_slope_CB, nearest_CKB


def _placed(x_CB, own_B, value_B):
    """x_CB with the value of each image at the row of its own class; own_B is -1 where another chunk holds that."""
    if torch.compiler.is_compiling():  # fused, a comparison costs nothing, and a scatter a pass of its own
        within_C1 = torch.arange(x_CB.shape[0], device=x_CB.device)[:, None]
        return torch.where(within_C1 == own_B, value_B, x_CB)
    row_1B = own_B.clamp(min=0)[None]
    return x_CB.scatter_(0, row_1B, torch.where(own_B >= 0, value_B, x_CB.gather(0, row_1B)))


def _at(cosine_SKB, column_B):
    """The cosine of each image with a class of this rank; zero where column_B is -1."""
    image_B = torch.arange(len(column_B), device=column_B.device)
    best_B = cosine_SKB[column_B.clamp(min=0), :, image_B].amax(1)
    return torch.where(column_B >= 0, best_B, 0.0)


def _add_at(gradient_SKB, sample, unit_BD, column_B, value_B):
    """Add a gradient to the cosine of each image with one class; of its sub-centres the nearest has it."""
    image_B = torch.arange(len(column_B), device=column_B.device)
    chosen_B, nearest_B = column_B.clamp(min=0), torch.zeros_like(column_B)
    if gradient_SKB.shape[1] > 1:  # the cosines themselves are overwritten by now
        unit_SKD = sample.unit_RD.view(*gradient_SKB.shape[:2], -1)
        nearest_B = torch.einsum("bkd,bd->bk", unit_SKD[chosen_B], unit_BD).argmax(1)
    gradient_SKB.index_put_((chosen_B, nearest_B, image_B), torch.where(column_B >= 0, value_B, 0.0), accumulate=True)


def _hardest(cosine_SKB, chunks, column_B, ranks):
    """(largest cosine of each image to another class over all ranks, that class's column or -1 where another rank holds
    it).
    """
    # Chunk by chunk, since a copy of all cosines with the own class masked would double the memory of a step.
    value_B = torch.full(column_B.shape, -torch.inf, device=column_B.device)
    at_B = torch.full_like(column_B, -1)
    for chunk in chunks:
        cosine_CB = cosine_SKB[chunk].amax(1)
        inside_B = ((column_B >= chunk.start) & (column_B < chunk.stop)).nonzero().squeeze(1)
        cosine_CB = cosine_CB.index_put((column_B[inside_B] - chunk.start, inside_B), cosine_CB.new_tensor(-torch.inf))
        best_B, best_at_B = cosine_CB.max(0)
        better_B = best_B > value_B
        value_B, at_B = torch.where(better_B, best_B, value_B), torch.where(better_B, best_at_B + chunk.start, at_B)
    highest_B = ranks.max_(value_B.clone())
    # Where ranks tie, the first one wins.
    rank_B = torch.where(value_B == highest_B, ranks.rank, ranks.num_ranks)
    return highest_B, torch.where(ranks.min_(rank_B) == ranks.rank, at_B, -1)


def share(num_identities: int, ranks: Ranks) -> tuple[int, int]:
    """(first class, number of classes) of this rank: as even as can be, the first ranks one more.

    >>> [share(10, Ranks(rank, 3)) for rank in range(3)]
    [(0, 4), (4, 3), (7, 3)]
    """
    least, more = divmod(num_identities, ranks.num_ranks)
    return least * ranks.rank + min(more, ranks.rank), least + (ranks.rank < more)


def _initial(first, num_local, num_subcentres, embedding_size, seed):
    """Centres drawn from N(0, 0.01), the same for a class whichever rank has it. [C, K, D]"""
    # Whole blocks are drawn, and of the first and the last only the part that this rank has is kept: a generator cannot
    # be set to the middle of what it draws.
    centre_CKD = torch.empty(num_local, num_subcentres, embedding_size)
    for block in range(first // INIT_ROWS, (first + num_local - 1) // INIT_ROWS + 1):
        generator = torch.Generator().manual_seed(np.random.SeedSequence((seed, block)).generate_state(1)[0].item())
        start = block * INIT_ROWS
        drawn = torch.empty(INIT_ROWS, num_subcentres, embedding_size).normal_(0, CENTRE_STD, generator=generator)
        low, high = max(start, first), min(start + INIT_ROWS, first + num_local)
        centre_CKD[low - first : high - first] = drawn[low - start : high - start]
    return centre_CKD
