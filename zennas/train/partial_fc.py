"""Partial FC: class centres shared out over ranks, of which a step compares its faces with a sample.

Time and memory of a step grow with the sampled centres. Nothing as large as all centres is made: neither a gradient nor a
normalised copy, and of cosines there is one matrix, in which their gradient replaces them. The softmax and the margins go
over it in chunks that stay in the cache, so that a loss costs little beside the three matrix products.

Source: An et al. 2021 (arXiv:2010.05222) and 2022 (arXiv:2203.15565); insightface's partial_fc_v2.py keeps a dense gradient,
this does not.
"""

import numpy as np
import torch

from zennas.records import UserError
from zennas.track import lookup
from zennas.train.centres import BLOCK_ROWS, CentreOptimizer, inverse_norm
from zennas.train.losses import LOSSES, State, applies, call, initial_buffers, knobs_of
from zennas.train.ranks import Ranks

CENTRE_STD = 0.01  # insightface's partial_fc_v2.py
INIT_ROWS = 4096  # classes drawn from one generator, so that a centre starts alike however many ranks there are
LEAST_LOGIT = -1e30  # of a chunk whose classes are all filtered out, so that its exponentials are zeros, not NaN
CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}  # of cosines worked on at a time; on a processor about its L2 cache


# b faces of this rank, B of all ranks, C classes of this rank, S sampled ones, K sub-centres of a class, D embedding size
class PartialFC:
    """The classification head of one rank: `begin` a step, call it on embeddings, let them flow back, `step`.

    num_identities: over all ranks. sampling_rate: share of its centres that a rank compares with, the identities of the step
    always among them. count_C: images of every identity (all ranks'), for the losses that need them. filter_threshold: a
    negative more similar than this is left out, for noisy labels (Partial FC's robust variant; insightface uses 0.4).
    correct_sampling: weigh the sampled negatives by one over their probability, so that the expected softmax is the whole
    one's; our choice to offer, off as in the sources.
    """

    def __init__(
        self, num_identities, embedding_size, *, loss="balanced_curricular", knobs=None, optimizer="sgd",
        optimizer_knobs=None, sampling_rate=1.0, count_C=None, filter_threshold=None, correct_sampling=False, seed=0,
        ranks=None,
    ):  # fmt: skip
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
            optimizer, optimizer_knobs,
            num_rows=self.num_local * self.num_subcentres, embedding_size=embedding_size, device=device,
        )  # fmt: skip
        self.log_count_C = None
        if self.loss.needs_counts:
            mine = torch.as_tensor(np.asarray(count_C[self.first : self.first + self.num_local]))
            # An identity without images is never a target; as if it had one, it is the least of the negatives.
            self.log_count_C = mine.clamp(min=1).to(device, torch.float32).log()
        self.buffers = initial_buffers(loss, device=device)
        self.num_steps = 0
        self._work, self._sample, self._before = {}, None, self.buffers

    @property
    def num_sampled(self):
        """Classes that a step of this rank compares with (more only where its faces have more identities)."""
        return self.num_local if self.sampling_rate == 1 else max(1, int(self.sampling_rate * self.num_local))

    def begin(self, label_b):
        """Sample the classes of a step whose faces, all micro-batches together, have these labels (this rank's)."""
        self._sample = Sample.all(self) if self.sampling_rate == 1 else Sample.draw(self, self.ranks.gather(label_b))
        self._before = self.buffers

    def __call__(self, embedding_bD, label_b, *, weight=1.0, epoch=0.0):
        """`weight` times the mean loss over the faces of all ranks, for this rank's embeddings and labels.

        Gradients reach embedding_bD when it is called backwards on; those of the centres are kept here for `step`, and are
        multiplied by `weight` alone (no loss scaling of mixed precision reaches them). epoch: how far the training is, for
        losses that begin late. All ranks give equally many faces.
        """
        if self._sample is None:
            self.begin(label_b)
        with torch.autocast(embedding_bD.device.type, enabled=False):
            embedding_bD = embedding_bD.float()
            unit_bD = torch.nn.functional.normalize(embedding_bD)
            norm_b = embedding_bD.detach().norm(dim=1)
            return _SampledSoftmax.apply(unit_bD, self, label_b, norm_b, weight, epoch)

    def step(self, lr):
        """Move the sampled centres along the gradients since `begin`."""
        sample, self._sample = self._sample, None
        if sample.num_passes:
            rows = self.centre_CKD.view(-1, self.embedding_size)
            self.optimizer.step(rows, sample.unit_RD, sample.grad_RD, row_R=sample.row_R, lr=lr, ranks=self.ranks)
        self.num_steps += 1

    def discard(self):
        """Forget the gradients since `begin`, and what the running values learnt from them: the step is not taken."""
        self._sample, self.buffers = None, self._before
        self.num_steps += 1

    def work(self, name, num_rows, num_columns):
        """A buffer kept from step to step: to allocate anew costs a processor more than a matrix product's margin ops."""
        held = self._work.get(name)
        if held is None or held.numel() < num_rows * num_columns:
            held = self._work[name] = torch.empty(num_rows * num_columns, device=self.centre_CKD.device)
        return held[: num_rows * num_columns].view(num_rows, num_columns)

    def state(self):
        """What a checkpoint holds of this rank: tensors whose first axis is its classes, and what all ranks share."""
        per_class = {"centre": self.centre_CKD}
        for name, values in self.optimizer.state.items():
            per_class[name] = values.view(self.num_local, self.num_subcentres, -1)
        return {
            "per_class": per_class,
            "shared": {
                "buffers": {name: float(value) for name, value in self.buffers.items()},
                "steps": self.num_steps,
            },
        }

    def restore(self, shared, read):
        """Take a checkpoint: its shared part, and read(name, first, last) -> that tensor's rows of classes first..last-1."""
        last = self.first + self.num_local
        for name, values in self.state()["per_class"].items():
            values.copy_(read(name, self.first, last))
        for name, value in shared["buffers"].items():
            self.buffers[name] = torch.tensor(value, device=self.centre_CKD.device)
        self.num_steps, self._sample = shared["steps"], None


class Sample:
    """The centres of one step: which, their directions, and the gradient that gathers for those."""

    def __init__(self, head, class_S, is_positive_S):
        self.class_S = class_S  # local numbers, rising; None: all
        self.num_classes = head.num_local if class_S is None else len(class_S)
        num_rows, size = self.num_classes * head.num_subcentres, head.embedding_size
        self.grad_RD, self.num_passes = head.work("grad", num_rows, size), 0
        self.row_R = None
        if class_S is not None:
            within_K = torch.arange(head.num_subcentres, device=class_S.device)
            self.row_R = (class_S[:, None] * head.num_subcentres + within_K).flatten()
        self.unit_RD, centre_ND = head.work("unit", num_rows, size), head.centre_CKD.view(-1, size)
        for start in range(0, num_rows, BLOCK_ROWS):
            here = slice(start, min(start + BLOCK_ROWS, num_rows))
            unit_RD = self.unit_RD[here]
            if class_S is None:
                unit_RD.copy_(centre_ND[here])
            else:
                torch.index_select(centre_ND, 0, self.row_R[here], out=unit_RD)
            unit_RD.mul_(inverse_norm(unit_RD))
        self.log_count_S = head.log_count_C
        if class_S is not None and head.log_count_C is not None:
            self.log_count_S = head.log_count_C[class_S]
        self.log_weight_S = None
        if head.correct_sampling and class_S is not None:
            drawn, negatives = int((~is_positive_S).sum()), head.num_local - int(is_positive_S.sum())
            self.log_weight_S = torch.where(is_positive_S, 0.0, float(np.log(negatives / max(1, drawn))))

    @classmethod
    def all(cls, head):
        return cls(head, None, None)

    @classmethod
    def draw(cls, head, label_B):
        """The identities of the step and, up to the head's number, others drawn without replacement.

        Drawn on the processor from (seed, step, rank), so that a resumed run draws what an unbroken one would have; numpy's
        choice takes time with the number drawn, not with the number there is.
        """
        mine = np.unique(label_B.cpu().numpy()) - head.first
        mine = mine[(mine >= 0) & (mine < head.num_local)]
        rng, chosen = np.random.default_rng((head.seed, head.num_steps, head.ranks.rank)), mine
        if len(mine) < head.num_sampled:
            drawn = rng.choice(head.num_local, head.num_sampled, replace=False, shuffle=False)
            chosen = np.union1d(drawn, mine)
            spare = len(chosen) - head.num_sampled  # at most as many as there are identities in the step
            if spare:
                others = np.delete(np.arange(len(chosen)), np.searchsorted(chosen, mine))
                chosen = np.delete(chosen, rng.choice(others, spare, replace=False))
        is_positive = np.zeros(len(chosen), bool)
        is_positive[np.searchsorted(chosen, mine)] = True
        device = head.centre_CKD.device
        return cls(head, torch.from_numpy(chosen).to(device), torch.from_numpy(is_positive).to(device))

    def columns(self, label_B, head):
        """The sampled class of each face among this rank's, or -1 where another rank has it."""
        local_B = label_B - head.first
        outside_B = (local_B < 0) | (local_B >= head.num_local)
        if self.class_S is None:
            return local_B.masked_fill(outside_B, -1)
        at_B = torch.searchsorted(self.class_S, local_B).clamp(max=self.num_classes - 1)
        return torch.where(outside_B | (self.class_S[at_B] != local_B), -1, at_B)


class _SampledSoftmax(torch.autograd.Function):
    """The loss, whose gradients are made along with it: there is one cosine matrix, and its gradient takes its place."""

    @staticmethod
    def forward(ctx, unit_bD, head, label_b, norm_b, weight, epoch):
        ranks = head.ranks
        unit_BD, label_B, norm_B = ranks.gather(unit_bD), ranks.gather(label_b), ranks.gather(norm_b)
        loss, grad_BD = _forward_backward(head, unit_BD, label_B, norm_B, weight, epoch, ctx.needs_input_grad[0])
        if grad_BD is not None:
            # Parallel training takes the mean of the ranks' gradients; the loss is the mean over the faces of all of them.
            ctx.save_for_backward(ranks.sum_of_mine(grad_BD) * ranks.num_ranks)
        return loss

    @staticmethod
    def backward(ctx, grad):
        (grad_bD,) = ctx.saved_tensors
        return grad_bD * grad, None, None, None, None, None


def _forward_backward(head, unit_BD, label_B, norm_B, weight, epoch, with_grad):
    """(loss, its gradient for unit_BD or None); that of the sampled centres is added to the sample's.

    Per chunk of classes: cosines, logits, exp(logits - their maximum m), and those times the slopes of the logits, which
    replace the cosines. When all chunks and ranks are through, exp(m - log sum) makes probabilities of them.
    """
    sample, ranks, loss, knobs = head._sample, head.ranks, head.loss, head.knobs
    num_faces, num_sub = len(unit_BD), head.num_subcentres
    cosine_RB = torch.mm(sample.unit_RD, unit_BD.t(), out=head.work("cosine", len(sample.unit_RD), num_faces))
    cosine_SKB = cosine_RB.view(sample.num_classes, num_sub, num_faces)
    size = max(1, CHUNK_BYTES[unit_BD.device.type] // (4 * num_faces * num_sub))
    chunks = [slice(start, min(start + size, sample.num_classes)) for start in range(0, sample.num_classes, size)]

    column_B = sample.columns(label_B, head)
    target_B = ranks.sum_(_at(cosine_SKB, column_B))
    if loss.update and with_grad:
        head.buffers = call(loss.update, knobs, head.buffers, target_B, norm_B)
    hardest_column_B = penalty_B = None
    if late := with_grad and applies(knobs, epoch):
        hardest_B, hardest_column_B = _hardest(cosine_SKB, chunks, column_B, ranks)
        moves_B = call(loss.relabel, knobs, target_B, hardest_B)
        column_B = torch.where(moves_B, hardest_column_B, column_B)
        target_B = torch.where(moves_B, hardest_B, target_B)
    if late and loss.penalty:
        hardest_B, hardest_column_B = _hardest(cosine_SKB, chunks, column_B, ranks)
        with torch.enable_grad():
            pair = target_B.clone().requires_grad_(), hardest_B.clone().requires_grad_()
            penalty_B = call(loss.penalty, knobs, *pair)
            pull_B, push_B = torch.autograd.grad(penalty_B.sum(), pair)

    def logits(cosine_BC, own_B, log_count_C):
        state = State(buffers=head.buffers, target_B=target_B, log_count_C=log_count_C, epoch=epoch)
        return call(loss.logits, knobs, cosine_BC, own_B, norm_B, state)

    # Each face's own logit and its slope, by itself: as a matrix of one column.
    is_mine_B = column_B >= 0
    own_count_B1 = None if sample.log_count_S is None else sample.log_count_S[column_B.clamp(min=0), None]
    with torch.enable_grad():
        own_B1 = target_B[:, None].clone().requires_grad_()
        own_logit_B1 = logits(own_B1, torch.zeros_like(column_B), own_count_B1)
        (slope_B1,) = torch.autograd.grad(own_logit_B1.sum(), own_B1)
    own_logit_B = ranks.sum_(torch.where(is_mine_B, own_logit_B1.detach()[:, 0], 0.0))

    highest_HB = unit_BD.new_empty(len(chunks), num_faces)  # m of each chunk
    sum_HB = torch.empty_like(highest_HB)
    for number, chunk in enumerate(chunks):
        cosine_CKB = cosine_SKB[chunk]
        chunk_own_B = torch.where((column_B >= chunk.start) & (column_B < chunk.stop), column_B - chunk.start, -1)
        with torch.set_grad_enabled(with_grad):
            leaf_CKB = cosine_CKB.detach().requires_grad_(with_grad)
            cosine_BC = (leaf_CKB[:, 0] if num_sub == 1 else leaf_CKB.max(1).values).t()
            counts_C = None if sample.log_count_S is None else sample.log_count_S[chunk]
            logit_BC = logits(cosine_BC, chunk_own_B, counts_C)
        exp_BC = _adjusted(logit_BC.detach(), cosine_BC.detach(), chunk_own_B, sample, chunk, head.filter_threshold)
        highest_HB[number] = exp_BC.amax(1).clamp_(min=LEAST_LOGIT)
        exp_BC.sub_(highest_HB[number][:, None]).exp_()
        sum_HB[number] = exp_BC.sum(1)
        if with_grad:
            (times_slope_CKB,) = torch.autograd.grad(logit_BC, leaf_CKB, exp_BC)
            cosine_CKB.copy_(times_slope_CKB)

    log_sum_B = torch.logsumexp(highest_HB + sum_HB.log(), 0)
    highest_B = ranks.max_(log_sum_B.clone())
    log_sum_B = ranks.sum_((log_sum_B - highest_B).exp_()).log_() + highest_B
    loss_B = log_sum_B - own_logit_B
    mean = weight * (loss_B if penalty_B is None else loss_B + penalty_B.detach()).mean()
    if not with_grad:
        return mean, None

    share = weight / num_faces
    factor_HB = share * (highest_HB - log_sum_B).exp_()
    for number, chunk in enumerate(chunks):
        cosine_SKB[chunk] *= factor_HB[number]
    # The cross-entropy's minus one at each face's own class, and the penalty's two gradients.
    _add_at(cosine_SKB, sample, unit_BD, column_B, -share * slope_B1[:, 0])
    if penalty_B is not None:
        _add_at(cosine_SKB, sample, unit_BD, column_B, share * pull_B)
        _add_at(cosine_SKB, sample, unit_BD, hardest_column_B, share * push_B)
    again = float(sample.num_passes > 0)  # a second micro-batch adds to the gradient of the first
    torch.addmm(sample.grad_RD, cosine_RB, unit_BD, beta=again, out=sample.grad_RD)
    sample.num_passes += 1
    return mean, cosine_RB.t() @ sample.unit_RD


def _at(cosine_SKB, column_B):
    """The cosine of each face with a class of this rank; zero where column_B is -1."""
    found_B = (column_B >= 0).nonzero().squeeze(1)
    values_B = cosine_SKB.new_zeros(len(column_B))
    return values_B.index_put_((found_B,), cosine_SKB[column_B[found_B], :, found_B].amax(1))


def _add_at(gradient_SKB, sample, unit_BD, column_B, value_B):
    """Add a gradient to the cosine of each face with one class; of its sub-centres the nearest has it."""
    found_B = (column_B >= 0).nonzero().squeeze(1)
    chosen_B, nearest_B = column_B[found_B], torch.zeros_like(found_B)
    if gradient_SKB.shape[1] > 1:  # the cosines themselves are overwritten by now
        unit_SKD = sample.unit_RD.view(*gradient_SKB.shape[:2], -1)
        nearest_B = torch.einsum("bkd,bd->bk", unit_SKD[chosen_B], unit_BD[found_B]).argmax(1)
    gradient_SKB.index_put_((chosen_B, nearest_B, found_B), value_B[found_B], accumulate=True)


def _adjusted(logit_BC, cosine_BC, own_B, sample, chunk, filter_threshold):
    """The logits, filtered and weighted for the sampling, in memory that may be overwritten."""
    if sample.log_weight_S is not None:
        logit_BC = logit_BC.add_(sample.log_weight_S[chunk])
    if filter_threshold is not None:
        is_own_BC = own_B[:, None] == torch.arange(logit_BC.shape[1], device=own_B.device)
        logit_BC = logit_BC.masked_fill_((cosine_BC > filter_threshold) & ~is_own_BC, -torch.inf)
    return logit_BC


def _hardest(cosine_SKB, chunks, column_B, ranks):
    """(largest cosine of each face to another class over all ranks, that class's column here or -1 where it is elsewhere)."""
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
    # Of ranks that tie, the first has it.
    rank_B = torch.where(value_B == highest_B, ranks.rank, ranks.num_ranks)
    return highest_B, torch.where(ranks.min_(rank_B) == ranks.rank, at_B, -1)


def share(num_identities, ranks):
    """(first class, number of classes) of this rank: as even as can be, the first ranks one more.

    >>> [share(10, Ranks(rank, 3)) for rank in range(3)]
    [(0, 4), (4, 3), (7, 3)]
    """
    least, more = divmod(num_identities, ranks.num_ranks)
    return least * ranks.rank + min(more, ranks.rank), least + (ranks.rank < more)


def _initial(first, num_local, num_subcentres, embedding_size, seed):
    """Centres drawn from N(0, 0.01), the same for a class whichever rank has it. [C, K, D]"""
    centre_CKD = torch.empty(num_local, num_subcentres, embedding_size)
    for block in range(first // INIT_ROWS, (first + num_local - 1) // INIT_ROWS + 1):
        generator = torch.Generator().manual_seed(np.random.SeedSequence((seed, block)).generate_state(1)[0].item())
        start = block * INIT_ROWS
        drawn = torch.empty(INIT_ROWS, num_subcentres, embedding_size).normal_(0, CENTRE_STD, generator=generator)
        low, high = max(start, first), min(start + INIT_ROWS, first + num_local)
        centre_CKD[low - first : high - first] = drawn[low - start : high - start]
    return centre_CKD
