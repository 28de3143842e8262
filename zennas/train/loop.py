"""The training itself. Read `Training.run` first."""

import contextlib
import copy
import functools
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from zennas.compiled import Compiled
from zennas.progress import Progress, duration
from zennas.ranks import Ranks
from zennas.records import ProcessLostError, UserError
from zennas.run_folder import explaining
from zennas.space.network import calibrate
from zennas.tasks.table import task_of
from zennas.tasks.task import Step
from zennas.train import checkpoints
from zennas.train.journal import CORRUPT, TRAIN, Journal, known_corrupt, known_gone
from zennas.train.optimizers import learning_rate, optimizer_of
from zennas.train.prepare import Job
from zennas.train.stopping import Stopping

MAX_POINTS = 2000  # of a curve
CHECKPOINTS = "checkpoints"
CALIBRATION_SAMPLES = 64
MAX_LISTED = 1000  # corrupt samples written down; more are counted, until the run is started again


class Trained(NamedTuple):
    """What a training came to on this rank, beside the weights of its network."""

    seconds: float  # of steps alone, those before it was taken up again too
    num_skipped: int
    corrupt: frozenset[str]  # where the samples lie that could not be read
    gone: frozenset[str]  # who has no sample that could be read, where others stood in


class Taken(NamedTuple):
    """What came of a step."""

    loss: float
    norm: float  # of the gradient, before it was clipped
    must_stop: bool  # a rank was asked to stop
    must_save: bool  # it is time for a checkpoint
    numbers: dict[str, torch.Tensor] = {}  # what the head gave beside the loss: means over the micro-batches


class Training:
    """One training under way, on one rank of it. What it changes is its own: the job is only read."""

    def __init__(self, job: Job, ranks: Ranks, progress: Progress, *, after_verify: Callable | None = None):
        """after_verify(network, step, note): called on the first rank behind every verification but that of the
        untrained network; what it raises ends the training. note(kind, numbers, **others) writes into the journal."""
        self.job, self.ranks, self.progress, self.after_verify = job, ranks, progress, after_verify
        self.task = task_of(job.request.task)
        self.plan, self.out, self.network, self.head = job.request.plan, job.request.out, job.network, job.head
        self.student = job.head.student
        self.first_step = self.num_skipped = self.skipped_in_a_row = 0
        self.seconds, self.corrupt, self.gone = 0.0, known_corrupt(self.out), known_gone(self.out)
        self.channels_last = self.plan.channels_last and not _crashes_in_channels_last(self.network, ranks.device)
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.optimizer = optimizer_of([self.student], self.plan.optimizer)
        self.scaler = torch.amp.GradScaler(
            ranks.device.type, enabled=job.autocast is torch.float16, growth_interval=100, init_scale=2.0**14
        )
        self.buffers = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        self.stopping, self.aside_s = Stopping(ranks), 0.0
        self.is_verified = True  # or need not be: False while the judging that a step is followed by is not over
        self.step = self.saved_step = 0  # of the last step, and of the last checkpoint

    def run(self) -> Trained:
        """Train to the end, from the last checkpoint if there is one.

        Where it is asked to stop or loses a decoding process, a checkpoint is written first: KeyboardInterrupt,
        ProcessLostError.
        """
        self._resume()
        self.parallel = self.ranks.parallel(self.student)
        self.compiled = Compiled(self.parallel, what="the network is") if self.plan.compile else self.parallel
        again = not self.is_verified
        self.journal = Journal(self.out, first_step=self.first_step, again=again) if self.ranks.is_first else None
        try:
            self._train()
        except BaseException:
            # The reason why the training ended is what the user needs, not what a full disk says of its last curves.
            with contextlib.suppress(Exception):
                self._close_journal()
            raise
        self._close_journal()
        return Trained(self.seconds, self.num_skipped, frozenset(self.corrupt), frozenset(self.gone))

    def _close_journal(self) -> None:
        """End TensorBoard's thread, which a process that trains again would keep otherwise."""
        if self.journal:
            self.journal.close()

    def _train(self) -> None:
        """Every step that is left, from the stream to the last checkpoint."""
        job, plan = self.job, self.plan
        stream = self.task.stream(
            job.request,
            job.data,
            first_step=self.first_step,
            last_step=job.num_steps,
            ranks=self.ranks,
            num_workers=job.num_workers,
        )
        self.progress.begin("training")
        log_steps = max(1, job.num_steps // MAX_POINTS)
        self.step = self.saved_step = self.first_step
        if self.first_step == 0 or not self.is_verified:
            self._verify(self.first_step)
        began = self.counted_at = self._clock()
        sums, saved_at = _Sums(began), time.monotonic()
        batches = stream.batches(say=self.progress.say)
        with self.stopping.answering(), contextlib.closing(batches):
            while (batch := self._next(batches)) is not None:
                step = self.step = batch.step + 1  # steps taken when it is done
                taken = self._step(batch, save=time.monotonic() - saved_at > 60 * plan.checkpoint_minutes)
                sums.add(taken, plan.batch)
                if self.ranks.is_first and (step % log_steps == 0 or step == job.num_steps):
                    self._log(step, sums)
                    sums = _Sums(self._clock())
                if step == self.first_step + 1:
                    began = self._clock()  # what the first step compiles says nothing of the pace
                self._show(step, taken.loss, self._clock() - began)
                is_last, self.is_verified = step == job.num_steps, not self._verifies_after(step)
                if not self.is_verified:
                    self._verify(step)
                # While steps are skipped, a checkpoint would only push out one of a time when they were not.
                if is_last or taken.must_stop or (taken.must_save and not self.skipped_in_a_row):
                    self._save(step)
                    saved_at = time.monotonic()
                if taken.must_stop and not is_last:
                    self._say_stopped()
                    raise KeyboardInterrupt
        self.progress.end()

    def _next(self, batches):
        """The next batch, or None behind the last one."""
        with self._between_steps(), self.stopping.waiting():
            return next(batches, None)

    @contextlib.contextmanager
    def _between_steps(self):
        """What is waited for or judged between two steps. What ends it there loses none of those that are done."""
        self.stopping.between_steps = self.ranks.num_ranks == 1  # a checkpoint is written by all ranks together
        try:
            if self.stopping.between_steps and self.stopping.asked:
                raise KeyboardInterrupt
            yield
        except (KeyboardInterrupt, ProcessLostError) as ended:
            if not self.stopping.between_steps:
                raise
            self.stopping.between_steps = False  # a second signal ends the saving, too
            if self.step > self.saved_step:
                self._save(self.step)
            if isinstance(ended, ProcessLostError):
                raise ProcessLostError(
                    f"{ended}; step {self.step} is done and kept: give the same command again to go on"
                ) from None
            self._say_stopped()
            raise
        finally:
            self.stopping.between_steps = False

    def _say_stopped(self):
        self.progress.end()
        if self.step:
            self.progress.say(f"asked to stop: step {self.step} is done, its checkpoint written")

    # --- a step ------------------------------------------------------------------------------------------------------

    def _step(self, batch, *, save):
        """What came of one step, which is taken unless its loss or its gradient is not finite."""
        plan, ranks, head = self.plan, self.ranks, self.head
        rate = learning_rate(batch.step, plan, steps_per_epoch=self.job.steps_per_epoch, num_steps=self.job.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._note_corrupt(batch)
        before = [buffer.clone() for buffer in self.buffers]
        self.optimizer.zero_grad(set_to_none=True)
        head.begin(batch)
        about = Step(plan.accumulate, batch.step / self.job.steps_per_epoch, self.channels_last)
        total, beside = 0.0, []
        for number in range(plan.accumulate):
            last = number == plan.accumulate - 1
            # Gradients of the ranks meet once, in the last micro-batch.
            with contextlib.nullcontext() if last or ranks.num_ranks == 1 else self.parallel.no_sync():
                numbers = dict(head.loss(self._forward, batch.micro(number, plan.accumulate), about))
                loss = numbers.pop("loss")
                with self.stopping.waiting():
                    self.scaler.scale(loss).backward()
            total += loss.detach()
            beside.append({name: value.detach() for name, value in numbers.items()})
        self.scaler.unscale_(self.optimizer)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        norm = nn.utils.clip_grad_norm_(weights, plan.optimizer.clip_norm or math.inf)
        # One exchange a step: is any rank's loss or gradient not finite, is one asked to stop, is it time to save.
        finite = torch.isfinite(total) & torch.isfinite(norm)
        asked = torch.tensor([0.0, self.stopping.asked, save and ranks.is_first], device=ranks.device)
        asked[0] = ~finite
        bad, stop, save = ranks.max_(asked).bool().tolist()
        if bad:
            self._skip(batch.step, total, norm, before)
        else:
            self.scaler.step(self.optimizer)
            head.step(rate)
            self.skipped_in_a_row = 0
        self.scaler.update()
        return Taken(float(total), float(norm), stop, save, _means(beside))

    def _forward(self, *inputs):
        """The student of these inputs, as all ranks train it together."""
        autocast = self.job.autocast
        with torch.autocast(self.ranks.device.type, dtype=autocast, enabled=autocast is not None):
            return self.compiled(*inputs)

    def _skip(self, step, loss, norm, before):
        """Undo what a step without finite numbers did (running statistics, the head), count it, stop if it goes on."""
        with torch.no_grad():
            for buffer, kept in zip(self.buffers, before, strict=True):
                buffer.copy_(kept)
        self.head.discard()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_skipped += 1
        self.skipped_in_a_row += 1
        warning = (
            f"step {step}: loss {float(loss):g}, gradient {float(norm):g}: not finite, skipped "
            f"({self.num_skipped} so far)"
        )
        self.progress.say(warning, style="yellow")
        if self.ranks.is_first:
            self.journal.add(step + 1, "skipped", {"loss": None, "gradient": None}, why=warning)
        if self.skipped_in_a_row >= self.plan.max_skipped_in_a_row:
            good = checkpoints.checkpoints_in(self.out / CHECKPOINTS)
            raise UserError(
                f"{self.skipped_in_a_row} steps in a row without a finite loss; the last good checkpoint is "
                f"{good[-1] if good else 'none yet'}; try a lower optimizer.lr, a longer warm-up, "
                "precision fp32 or a smaller optimizer.clip_norm: --from CHECKPOINT begins another --out with its "
                "weights"
            )

    # --- beside the steps ---------------------------------------------------------------------------------------------

    def _clock(self):
        """Seconds of training: verifying and saving are not."""
        return time.monotonic() - self.aside_s

    @contextlib.contextmanager
    def _aside(self):
        start = time.monotonic()
        try:
            yield
        finally:
            self.aside_s += time.monotonic() - start

    def _log(self, step, sums):
        rate = self.optimizer.param_groups[0]["lr"]
        numbers = sums.means(self._clock()) | {"lr": rate, "epoch": step / self.job.steps_per_epoch}
        numbers |= self.head.numbers()
        self.journal.add(
            step, TRAIN, {name: None if value is None else round(value, 6) for name, value in numbers.items()}
        )

    def _show(self, step, loss, elapsed_s):
        job, done = self.job, step - self.first_step - 1  # elapsed_s begins behind the first step
        state = {"step": f"{step}/{job.num_steps}", "epoch": f"{step / job.steps_per_epoch:.2f}", "loss": f"{loss:.3f}"}
        if done > 0:
            state["images/s"] = f"{done * self.plan.batch / max(elapsed_s, 1e-9):.0f}"
            state["left"] = duration(elapsed_s / done * (job.num_steps - step))
        self.progress.update(state | ({"skipped": self.num_skipped} if self.num_skipped else {}))

    def _verify(self, step):
        """Judge the network on every set, on the first rank. One that cannot be judged now does not end the
        training.
        """
        with self._between_steps(), self._aside():
            self.ranks.on_first(lambda: self._verify_sets(step))
            if self.after_verify is not None and step > 0:
                self.ranks.on_first(lambda: self.after_verify(self.network, step, functools.partial(self._note, step)))
        self.is_verified = True

    def _verifies_after(self, step):
        """Whether the network is to be judged after a step."""
        every = self.plan.verify_every(self.job.steps_per_epoch)
        return step % every == 0 or step == self.job.num_steps

    def _verify_sets(self, step):
        job, network, measures = self.job, self.network, self.task.measures
        # Without statistics, sums over many blocks would run away; weights that --from names have theirs.
        if step == 0 and job.sets and job.request.initial is None:
            inputs = self.task.some_inputs(job.request, job.data, CALIBRATION_SAMPLES)
            network = calibrate(copy.deepcopy(network), inputs.to(self.ranks.device))
        for judged_set in job.sets:
            start = time.monotonic()
            name, epoch = f"verify/{judged_set.name}", step / job.steps_per_epoch
            try:
                judgement = self.task.judge(
                    job.request, network, judged_set, device=self.ranks.device, autocast=job.autocast
                )
            except UserError as error:
                self.journal.add(step, name, dict.fromkeys(measures), epoch=epoch)
                self.progress.say(f"warning: {error}", style="yellow")
                continue
            self._note(step, name, {measure: getattr(judgement.record, measure) for measure in measures}, epoch=epoch)
            seconds = duration(time.monotonic() - start)
            self.progress.say(f"{judged_set.name} after {step} steps: {judgement.text}, {seconds}")

    def _note(self, step, kind, numbers, **details):
        """An entry of the journal that is to be seen at once."""
        self.journal.add(step, kind, numbers, **details)
        self.journal.flush()

    def _note_corrupt(self, batch):
        """Write down the samples that were replaced, each once, and who left because none of theirs could be read."""
        for where, why in batch.corrupt:
            self._note_once(self.corrupt, "where", where, why, f"corrupt image skipped: {where}: {why}")
        for who, why in batch.gone:
            self._note_once(self.gone, "who", who, why, f"{who}: {why}: others stand in")

    def _note_once(self, known, kind, what, why, text):
        if what in known:
            return
        known.add(what)
        if len(known) <= MAX_LISTED:
            path = self.out / CORRUPT.format(rank=self.ranks.rank)
            with explaining(self.out), open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({kind: what, "why": why}) + "\n")
            self.progress.say(text, style="yellow")

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, step):
        now = self._clock()
        self.seconds, self.counted_at = self.seconds + now - self.counted_at, now
        self.stopping.saving = True
        with self._aside():
            self._write_checkpoint(step)
        self.saved_step, self.stopping.saving = step, False

    def _write_checkpoint(self, step):
        common = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
            "is_verified": self.is_verified,
        }
        checkpoints.save(
            self.out / CHECKPOINTS,
            step,
            common=common,
            head=self.head,
            ranks=self.ranks,
            keep=self.plan.keep_checkpoints,
        )
        if self.journal:
            self.journal.flush()

    def _resume(self):
        """Take up the last whole checkpoint, or the one that --from names, on however many ranks there are now."""
        path = self.ranks.on_first(self._last_checkpoint)
        if path is None:
            return
        common, rows = checkpoints.load(path)
        if path == self.job.request.start and common["step"] >= self.job.num_steps:
            raise UserError(
                f"--from {path}: is at step {common['step']}, and this training ends at step {self.job.num_steps}: "
                "nothing would be trained; give more epochs or steps"
            )
        try:
            self.head.restore(common, rows.read)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self.network.load_state_dict(common["network"])
        self.optimizer.load_state_dict(common["optimizer"])
        if common["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(common["scaler"])
        torch.set_rng_state(common["rng"])
        self.first_step, self.seconds = common["step"], common["seconds"]
        self.num_skipped, self.skipped_in_a_row = common["num_skipped"], common["skipped_in_a_row"]
        self.is_verified = common.get("is_verified", True)  # older checkpoints do not say so
        if self.first_step < self.job.num_steps:
            self.progress.say(f"going on from {path}: step {self.first_step} of {self.job.num_steps}")

    def _last_checkpoint(self):
        """The path of the newest checkpoint that can be read, or None. Damaged ones are reported and skipped."""
        folder, asked = self.out / CHECKPOINTS, self.job.request.start
        checkpoints.clean(folder)
        damaged = None
        for path in reversed(checkpoints.checkpoints_in(folder)):
            try:
                checkpoints.load(path)
                return path
            except UserError as error:
                damaged = error
                self.progress.say(f"warning: {error}; trying the one before", style="yellow")
        if damaged is not None:
            raise UserError(f"{damaged}; no checkpoint in {folder} can be read: --fresh begins anew")
        return asked


def _crashes_in_channels_last(network, device):
    """Whether torch may crash (2.13 does): on processors, in the gradient of a 1x1 convolution with a stride, of few
    channels.
    """
    return device.type == "cpu" and any(
        layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels <= 8
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    )


class _Sums:
    """What a point of the curves is the mean of."""

    def __init__(self, start):
        self.loss, self.norm, self.num, self.images, self.start = 0.0, 0.0, 0, 0, start
        self.numbers = []

    def add(self, taken, images):
        """One step; a skipped one counts for the time alone."""
        self.images += images
        if math.isfinite(taken.loss) and math.isfinite(taken.norm):
            self.loss, self.norm, self.num = self.loss + taken.loss, self.norm + taken.norm, self.num + 1
            self.numbers.append(taken.numbers)

    def means(self, now):
        seconds = max(now - self.start, 1e-9)
        loss, norm = (total / self.num if self.num else None for total in (self.loss, self.norm))
        beside = {name: float(value) for name, value in _means(self.numbers).items()}
        return {"loss": loss, "gradient": norm, "images_per_s": self.images / seconds} | beside


def _means(steps):
    """The means of numbers by name, over those steps that have them."""
    names = dict.fromkeys(name for numbers in steps for name in numbers)
    values = {name: [numbers[name] for numbers in steps if name in numbers] for name in names}
    return {name: sum(column) / len(column) for name, column in values.items()}
