"""The training itself. Read `Training.run` first."""

import contextlib
import copy
import json
import math
import signal
import time

import torch
from torch import nn

from zennas.compiled import Compiled
from zennas.data.images import CorruptImageError, decode
from zennas.data.stream import FaceStream
from zennas.mask.masker import masker_of
from zennas.progress import duration
from zennas.records import UserError
from zennas.run_folder import explaining
from zennas.space.network import calibrate
from zennas.tasks.face.guide import attention_maps_of
from zennas.tasks.face.verify import in_eval, normalised, verify
from zennas.train import checkpoints
from zennas.train.journal import CORRUPT, Journal, known_corrupt
from zennas.train.optimizers import learning_rate, optimizer_of

MAX_POINTS = 2000  # of a curve
CHECKPOINTS = "checkpoints"
CALIBRATION_FACES = 64
MAX_LISTED = 1000  # corrupt images written down; more are counted, until the run is started again


class Training:
    """One training under way, on one rank of it."""

    def __init__(self, job, ranks, progress, *, after_verify=None):
        """after_verify(training, step): called on the first rank behind every verification but that of the untrained
        network; what it raises ends the training."""
        self.job, self.ranks, self.progress, self.after_verify = job, ranks, progress, after_verify
        self.plan, self.out, self.network, self.head = job.options.plan, job.options.out, job.network, job.head
        self.first_step = self.num_skipped = self.skipped_in_a_row = 0
        self.seconds, self.corrupt = 0.0, known_corrupt(self.out)
        projection = job.guide.projection if job.guide else None
        self.channels_last = self.plan.channels_last and not _crashes_in_channels_last(self.network, ranks.device)
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.student = _Student(self.network, projection)
        self.optimizer = optimizer_of([self.student], self.plan.optimizer)
        self.scaler = torch.amp.GradScaler(
            ranks.device.type, enabled=job.autocast is torch.float16, growth_interval=100, init_scale=2.0**14
        )
        self.buffers = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        self.stopping, self.aside_s = False, 0.0

    def run(self):
        """Train to the end, from the last checkpoint if there is one. KeyboardInterrupt after a checkpoint has been
        written.
        """
        job, plan = self.job, self.plan
        self._resume()
        self.parallel = self.ranks.parallel(self.student)
        self.forward = Compiled(self.parallel, what="the network is") if plan.compile else self.parallel
        self.journal = Journal(self.out, first_step=self.first_step) if self.ranks.is_first else None
        stream = FaceStream(
            job.source,
            batch=plan.batch,
            image_px=job.options.space.image_px,
            seed=plan.seed,
            augmentations=plan.data.augment,
            masker=masker_of(plan.data.mask, seed=plan.seed),
            first_step=self.first_step,
            last_step=job.num_steps,
            rank=self.ranks.rank,
            num_ranks=self.ranks.num_ranks,
            num_workers=job.num_workers,
            images_per_identity=plan.data.images_per_identity,
            pin_memory=self.ranks.device.type == "cuda",
        )
        self.progress.begin("training")
        verify_steps = max(1, round(plan.verify_epochs * job.steps_per_epoch))
        log_steps = max(1, job.num_steps // MAX_POINTS)
        if self.first_step == 0:
            self._verify(0)
        began = counted_at = self._clock()
        sums, saved_at = _Sums(began), time.monotonic()
        with self._interruptible():
            for batch in stream:
                step = batch.step + 1  # steps taken when it is done
                loss, norm = self._step(batch, save=time.monotonic() - saved_at > 60 * plan.checkpoint_minutes)
                sums.add(loss, norm, plan.batch)
                if self.ranks.is_first and (step % log_steps == 0 or step == job.num_steps):
                    self._log(step, sums)
                    sums = _Sums(self._clock())
                self._show(step, loss, self._clock() - began)
                is_last = step == job.num_steps
                if step % verify_steps == 0 or is_last:
                    self._verify(step)
                # While steps are skipped, a checkpoint would only push out one of a time when they were not.
                if is_last or self.must_stop or (self.must_save and not self.skipped_in_a_row):
                    now = self._clock()
                    self.seconds, counted_at = self.seconds + now - counted_at, now
                    self._save(step)
                    saved_at = time.monotonic()
                if self.must_stop and not is_last:
                    self.progress.say(f"asked to stop: step {step} is done, its checkpoint written")
                    self.progress.end()
                    raise KeyboardInterrupt
        self.progress.end()
        if self.journal:
            self.journal.close()

    # --- a step ------------------------------------------------------------------------------------------------------

    def _step(self, batch, *, save):
        """(loss, norm of the backbone's gradient) of one step, which is taken unless one of them is not finite."""
        plan, ranks, head = self.plan, self.ranks, self.head
        rate = learning_rate(batch.step, plan, steps_per_epoch=self.job.steps_per_epoch, num_steps=self.job.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._note_corrupt(batch)
        before = [buffer.clone() for buffer in self.buffers]
        self.optimizer.zero_grad(set_to_none=True)
        head.begin(batch.label_B.to(ranks.device))
        size, total = len(batch.label_B) // plan.accumulate, 0.0
        for number in range(plan.accumulate):
            here = slice(number * size, (number + 1) * size)
            micro = batch._replace(
                image_BHW3=batch.image_BHW3[here], label_B=batch.label_B[here], index_B=batch.index_B[here]
            )
            last = number == plan.accumulate - 1
            with contextlib.nullcontext() if last or ranks.num_ranks == 1 else self.parallel.no_sync():
                loss = self._loss(micro, epoch=batch.step / self.job.steps_per_epoch)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        norm = nn.utils.clip_grad_norm_(weights, plan.optimizer.clip_norm or math.inf)
        # One exchange a step: is any rank's loss or gradient not finite, is one asked to stop, is it time to save.
        finite = torch.isfinite(total) & torch.isfinite(norm)
        asked = torch.tensor([0.0, self.stopping, save and ranks.is_first], device=ranks.device)
        asked[0] = ~finite
        bad, stop, save = ranks.max_(asked).bool().tolist()
        self.must_stop, self.must_save = stop, save
        if bad:
            self._skip(batch.step, total, norm, before)
        else:
            self.scaler.step(self.optimizer)
            head.step(rate * plan.optimizer.centre_lr)
            self.skipped_in_a_row = 0
        self.scaler.update()
        return float(total), float(norm)

    def _loss(self, micro, *, epoch):
        """The loss of a micro-batch, as its share of the step's."""
        plan, job, device = self.plan.distill, self.job, self.ranks.device
        image_B3HW = normalised(micro.image_BHW3, device, channels_last=self.channels_last)
        if job.guide is not None:
            image_B3HW = job.guide.seen_by_student(image_B3HW, micro.step)
        with attention_maps_of(self.network, job.guide) as maps:
            with torch.autocast(device.type, dtype=job.autocast, enabled=job.autocast is not None):
                embedding_BD, projected_BD = self.forward(image_B3HW)
            class_weight = plan.class_weight if job.guide else 1.0
            weight = class_weight / self.plan.accumulate
            loss = self.head(embedding_BD, micro.label_B.to(device), weight=weight, epoch=epoch)
            if job.guide is not None:
                distilled = job.guide.loss(projected_BD.float(), maps.take(), micro)
                loss = loss + (job.guide.weight / self.plan.accumulate) * distilled
        return loss

    def _skip(self, step, loss, norm, before):
        """Undo what a step without finite numbers did: running statistics, class centres; count it, and stop if it goes
        on.
        """
        with torch.no_grad():
            for buffer, kept in zip(self.buffers, before, strict=True):
                buffer.copy_(kept)
        self.head.discard()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_skipped += 1
        self.skipped_in_a_row += 1
        said = (
            f"step {step}: loss {float(loss):g}, gradient {float(norm):g}: not finite, skipped "
            f"({self.num_skipped} so far)"
        )
        self.progress.say(said, style="yellow")
        if self.ranks.is_first:
            self.journal.add(step + 1, "skipped", {"loss": None, "gradient": None}, why=said)
        if self.skipped_in_a_row >= self.plan.max_skipped_in_a_row:
            good = checkpoints.checkpoints_in(self.out / CHECKPOINTS)
            raise UserError(
                f"{self.skipped_in_a_row} steps in a row without a finite loss; the last good checkpoint is "
                f"{good[-1] if good else 'none yet'}; try a lower optimizer.lr, a longer schedule.warmup_epochs, "
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
        numbers |= {name: float(value) for name, value in self.head.buffers.items()}
        self.journal.add(
            step, "train", {name: None if value is None else round(value, 6) for name, value in numbers.items()}
        )

    def _show(self, step, loss, elapsed_s):
        done, todo = step - self.first_step, self.job.num_steps - step
        state = {
            "step": f"{step}/{self.job.num_steps}",
            "epoch": f"{step / self.job.steps_per_epoch:.2f}",
            "loss": f"{loss:.3f}",
            "images/s": f"{done * self.plan.batch / max(elapsed_s, 1e-9):.0f}",
            "left": duration(elapsed_s / max(1, done) * todo),
        }
        self.progress.update(state | ({"skipped": self.num_skipped} if self.num_skipped else {}))

    def _verify(self, step):
        """The accuracy on every set, by the first rank. A network that has lost its head for the moment ends no
        training.
        """
        with self._aside():
            self.ranks.on_first(lambda: self._verify_sets(step))
            if self.after_verify is not None and step > 0:
                self.ranks.on_first(lambda: self.after_verify(self, step))

    def _verify_sets(self, step):
        network = self.network
        if step == 0 and self.job.sets:  # without statistics, sums over many blocks would run away
            network = calibrate(copy.deepcopy(network), self._some_faces())
        for pair_set in self.job.sets:
            start = time.monotonic()
            embed_batch = in_eval(network, self.ranks.device, autocast=self.job.autocast)
            name, epoch = f"verify/{pair_set.name}", step / self.job.steps_per_epoch
            try:
                found = verify(pair_set, embed_batch, image_px=self.job.options.space.image_px)
            except UserError as error:
                self.journal.add(step, name, dict.fromkeys(("accuracy", "accuracy_std", "tar")), epoch=epoch)
                self.progress.say(f"warning: {error}", style="yellow")
                continue
            numbers = {"accuracy": found.accuracy, "accuracy_std": found.accuracy_std, "tar": found.tar}
            self.journal.add(step, name, numbers, epoch=epoch)
            self.journal.flush()
            self.progress.say(
                f"{pair_set.name} after {step} steps: accuracy {100 * found.accuracy:.2f} % ± "
                f"{100 * found.accuracy_std:.2f}"
                f" ({found.num_pairs} pairs, {duration(time.monotonic() - start)})"
            )

    def _some_faces(self):
        """The first images of the data that decode, as the network sees them."""
        source, px, images = self.job.source, self.job.options.space.image_px, []
        for number in range(source.num_images):
            with contextlib.suppress(CorruptImageError):
                images.append(torch.from_numpy(decode(source.read(number), image_px=px)))
            if len(images) == CALIBRATION_FACES:
                break
        return normalised(torch.stack(images), self.ranks.device)

    def _note_corrupt(self, batch):
        """Write down the images that were replaced, each once."""
        for where, why in batch.corrupt:
            if where in self.corrupt:
                continue
            self.corrupt.add(where)
            if len(self.corrupt) <= MAX_LISTED:
                path = self.out / CORRUPT.format(rank=self.ranks.rank)
                with explaining(self.out), open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"where": where, "why": why}) + "\n")
                self.progress.say(f"corrupt image skipped: {where}: {why}", style="yellow")

    @contextlib.contextmanager
    def _interruptible(self):
        """Ctrl-C and SIGTERM end the step under way, and a checkpoint is written; a second one ends at once."""

        def ask(number, frame):
            if self.stopping:
                raise KeyboardInterrupt
            # and nothing else: a handler may have come between the halves of a line on the terminal
            self.stopping = True

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # a thread other than the first, as under Ray: its signals are Ray's
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, step):
        with self._aside():
            self._write_checkpoint(step)

    def _write_checkpoint(self, step):
        common = {
            "network": self.network.state_dict(),
            "projection": self.student.projection.state_dict() if self.student.projection is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "guide": self.job.guide.state() if self.job.guide else {},
            "rng": torch.get_rng_state(),
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": self.seconds,
            "num_identities": self.head.num_identities,
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
        found = self.ranks.on_first(self._last_checkpoint)
        if found is None:
            return
        common, centres = checkpoints.load(found)
        if found == self.job.options.start and common["step"] >= self.job.num_steps:
            raise UserError(
                f"--from {found}: is at step {common['step']}, and this training ends at step {self.job.num_steps}: "
                "nothing would be trained; give more epochs"
            )
        if common["num_identities"] != self.head.num_identities:
            raise UserError(
                f"{found}: of {common['num_identities']} identities; the data has {self.head.num_identities} now"
            )
        self.network.load_state_dict(common["network"])
        if self.student.projection is not None:
            self.student.projection.load_state_dict(common["projection"])
        self.optimizer.load_state_dict(common["optimizer"])
        if common["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(common["scaler"])
        if self.job.guide:
            self.job.guide.restore(common["guide"])
        self.head.restore(common["head"], centres.read)
        torch.set_rng_state(common["rng"])
        self.first_step, self.seconds = common["step"], common["seconds"]
        self.num_skipped, self.skipped_in_a_row = common["num_skipped"], common["skipped_in_a_row"]
        if self.first_step < self.job.num_steps:
            self.progress.say(f"going on from {found}: step {self.first_step} of {self.job.num_steps}")

    def _last_checkpoint(self):
        """The path of the newest checkpoint that can be read; damaged ones are said and passed over. None if there is
        none.
        """
        folder, asked = self.out / CHECKPOINTS, self.job.options.start
        checkpoints.clean(folder)
        there, damaged = checkpoints.checkpoints_in(folder), None
        for path in reversed(there):
            try:
                checkpoints.load(path)
                return path
            except UserError as error:
                damaged = error
                self.progress.say(f"warning: {error}; trying the one before", style="yellow")
        if damaged is not None:
            raise UserError(f"{damaged}; no checkpoint in {folder} can be read: --fresh begins anew")
        return asked


class _Student(nn.Module):
    """The network with what distillation hangs on it, so that one wrapper trains both: (embedding, projected
    embedding).
    """

    def __init__(self, network, projection):
        super().__init__()
        self.network, self.projection = network, projection

    def forward(self, image_B3HW):
        embedding_BD = self.network(image_B3HW)
        return embedding_BD, embedding_BD if self.projection is None else self.projection(embedding_BD)


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

    def add(self, loss, norm, images):
        """One step; a skipped one counts for the time alone."""
        self.images += images
        if math.isfinite(loss) and math.isfinite(norm):
            self.loss, self.norm, self.num = self.loss + loss, self.norm + norm, self.num + 1

    def means(self, now):
        seconds = max(now - self.start, 1e-9)
        loss, norm = (total / self.num if self.num else None for total in (self.loss, self.norm))
        return {"loss": loss, "gradient": norm, "images_per_s": self.images / seconds}
