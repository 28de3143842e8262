"""Which drivers work on a study. Each holds an island, its own share of the space, while it gives signs of life.

A claim is a running trial in a study of its own, `NAME drivers`: Optuna numbers trials one after the other, so that of
two claims on one island the first counts, whatever the storage. A driver that died leaves its claim running: it is
taken back, at once where it ran on this machine, elsewhere once it has given no sign of life for LEASE_S.
"""

import os
import pathlib
import platform
import time
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from zennas.records import UserError
from zennas.search.storage import created
from zennas.space.candidate import Candidate

BEAT_S = 5.0  # between two signs of life
LEASE_S = 30.0  # without one, by the newcomer's own clock: the clocks of two machines are never compared
ASK_S = 0.5


def owner(candidate: Candidate, num_islands: int) -> int:
    """The island that a candidate belongs to. All members of a trunk belong to one.

    So no two islands score the same, and they need not ask each other.
    """
    if num_islands == 1:
        return 0
    return zlib.crc32(repr(candidate.trunk).encode()) % num_islands


class Drivers:
    """The study of drivers, in which every claim is a trial.

    Optuna's Study changes a running trial only for whoever began it; what all drivers may write to it goes through the
    storage, by the methods that its base class documents.
    """

    def __init__(self, storage: BaseStorage, name: str):
        """name: of the study that the drivers work on."""
        name = f"{name} drivers"
        self.study = created(
            lambda: optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        )
        self._storage, self._id = storage, storage.get_study_id_from_name(name)

    def name_objective(self) -> None:
        """Say what the value of a finished claim is."""
        self.study.set_metric_names(["scored candidates"])

    def running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    def last_held(self) -> dict[int | str, FrozenTrial]:
        """{island: the last claim on it that counted}."""
        trials = self.study.get_trials(deepcopy=False)
        return {trial.user_attrs["island"]: trial for trial in trials if trial.user_attrs.get("held")}

    def write(self, number: int, name: str, value: Any) -> None:
        """Write a user attribute of a running claim. UpdateFinishedTrialError where it runs no more."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        self._storage.set_trial_user_attr(trial_id, name, value)

    def end(self, number: int, *, num_scored: float | None = None) -> None:
        """End a claim, unless it is ended already; as finished where the island's number of candidates is given."""
        if num_scored is None:
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self.study.tell(number, float(num_scored), skip_if_finished=True)


class Claim:
    """An island that this driver holds."""

    def __init__(self, drivers: Drivers, number: int, island: int | str, *, was_finished: bool = False):
        self.drivers, self.number, self.island = drivers, number, island
        self.beats, self.was_finished = 0, was_finished

    def beat(self) -> None:
        """Give a sign of life. UserError where another driver has taken the island over meanwhile."""
        self.beats += 1
        try:
            self.drivers.write(self.number, "signs of life", self.beats)
        except UpdateFinishedTrialError:
            raise UserError(
                f"{_named(self.island)} was taken over by another driver, because this one was silent for "
                f"{LEASE_S:.0f} s; what was computed is kept; give the same command again to go on beside it"
            ) from None

    def is_first(self) -> bool:
        """Whether this driver began before all others that live."""
        claims = [trial for trial in self.drivers.running() if isinstance(trial.user_attrs["island"], int)]
        return min(trial.number for trial in claims) == self.number

    def release(self, *, finished: bool | None, num_scored: int) -> None:
        """Give the island back: as finished, as unfinished, or (None) as it was before.

        An island that was taken over belongs to another driver already.
        """
        ends = self.was_finished if finished is None else finished
        self.drivers.end(self.number, num_scored=num_scored if ends else None)


def claim(drivers: Drivers, num_islands: int, *, say: Callable[[str], None], token: str | None = None) -> Claim:
    """A Claim on a free island, best one whose driver left it unfinished.

    Where every island is held, it waits as long as a holder may be dead. UserError where all of them live.
    token: names this claim; the same token asks for it again after a lost connection.
    """
    token = token or uuid.uuid4().hex
    seen, is_announced, begun = {}, False, time.monotonic()
    while True:
        held = take_back(drivers, seen, say=say, token=token)
        free = [island for island in range(num_islands) if island not in held]
        if free:
            # What was left unfinished first; of finished ones, which may be extended, the one that was held longest
            # ago.
            last = drivers.last_held()
            island = min(
                free,
                key=lambda island: (_is_finished(last, island), last[island].number if island in last else -1, island),
            )
            if (made := _try(drivers, island, token)) is not None:
                return made
            continue
        held = {island: trial for island, trial in held.items() if isinstance(island, int)}
        holders = ", ".join(
            f"island {island} by process {trial.user_attrs['process']} on {trial.user_attrs['host']}"
            for island, trial in sorted(held.items())
        )
        if time.monotonic() - begun > LEASE_S + 2 * BEAT_S:
            raise UserError(
                f"the study has {num_islands} island(s), and a driver works on each: {holders}; wait for one to end"
            )
        if not is_announced:
            say(f"held: {holders}; waiting up to {LEASE_S + 2 * BEAT_S:.0f} s, in case its driver has died")
            is_announced = True
        time.sleep(ASK_S)


def turn(drivers: Drivers, what: str, *, say: Callable[[str], None], seen: dict, token: str | None = None) -> Claim:
    """A Claim on something that one driver does at a time, once those before it are done. token: as in `claim`."""
    is_announced, token = False, token or uuid.uuid4().hex
    while True:
        held = take_back(drivers, seen, say=say, token=token)
        if what not in held:
            if (made := _try(drivers, what, token)) is not None:
                return made
        elif not is_announced:
            holder = held[what].user_attrs
            say(f"waiting for the {what} of another island (process {holder['process']} on {holder['host']})")
            is_announced = True
        time.sleep(ASK_S)


def take_back(
    drivers: Drivers, seen: dict, *, say: Callable[[str], None], token: str | None = None
) -> dict[int | str, FrozenTrial]:
    """End the claims of drivers that died. {island: trial} of the others.

    seen: what this function remembers between two calls. token: of the caller's own claim, which does not count.
    """
    held, running, now = {}, drivers.running(), time.monotonic()
    # Nobody was looking, or the store was away and no sign of life could reach it: all get their time anew.
    if now - seen.get("looked", now) > LEASE_S / 2:
        seen.clear()
    seen["looked"] = now
    for trial in running:
        island, holder = trial.user_attrs["island"], trial.user_attrs
        if token is not None and holder.get("token") == token:
            continue
        beats, since = seen.get(trial.number, (None, None))
        if beats != holder.get("signs of life"):
            seen[trial.number] = (holder.get("signs of life"), time.monotonic())
        silent = since is not None and beats == holder.get("signs of life") and time.monotonic() - since > LEASE_S
        lives = _lives(holder)
        if lives is False or (lives is None and silent):
            try:
                drivers.write(trial.number, "taken back", "its driver gave no sign of life")
                drivers.end(trial.number)
            except UpdateFinishedTrialError:  # another driver was as quick, perhaps between these two lines
                continue
            say(f"{_named(island)}: its driver (process {holder['process']} on {holder['host']}) has died; taken back")
        else:
            held.setdefault(island, trial)
    return held


def driverless(drivers: Drivers, num_islands: int) -> list[int]:
    """The islands that no driver works on and that are not finished."""
    held = {trial.user_attrs["island"] for trial in drivers.running()}
    last = drivers.last_held()
    return [island for island in range(num_islands) if island not in held and not _is_finished(last, island)]


def _try(drivers, island, token):
    # One that was begun before a connection was lost, and of which nobody heard.
    before = [trial for trial in drivers.running() if trial.user_attrs.get("token") == token]
    if before:
        island = before[0].user_attrs["island"]
    mine = {
        "island": island,
        "token": token,
        "host": platform.node(),
        "process": os.getpid(),
        "born": _born(os.getpid()),
        "place": _place(),
    }
    if not before:
        drivers.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=mine | {"signs of life": 0}))
    rivals = [trial for trial in drivers.running() if trial.user_attrs["island"] == island]
    first = min(rivals, key=lambda trial: trial.number)
    ours = next(trial for trial in rivals if trial.user_attrs.get("token") == token)
    if first.number == ours.number:
        was_finished = _is_finished(drivers.last_held(), island)
        drivers.write(ours.number, "held", True)
        return Claim(drivers, ours.number, island, was_finished=was_finished)
    drivers.end(ours.number)
    return None


def _named(island):
    return f"island {island}" if isinstance(island, int) else f"the {island} of an island"


def _is_finished(last, island):
    return island in last and last[island].state == TrialState.COMPLETE


def _lives(holder):
    """Whether the process of a claim lives; None where it ran in another place, so that nobody here can know."""
    if holder["place"] != _place():
        return None
    born = _born(holder["process"])
    return born is not None and born == holder["born"]


def _place():
    """What two processes share that can see each other: machine, boot, space of process numbers."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: no process is known to be dead before its time
        return f"{platform.node()} {os.getpid()}"


def _born(process):
    """When a process began, in the kernel's ticks since the boot; None where there is none, or only its remains."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
