"""Which drivers work on a study: each holds an island, a share of the space that is its own, while it gives signs of
life.

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

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from zennas.records import UserError

BEAT_S = 5.0  # between two signs of life
LEASE_S = 30.0  # without one, as the newcomer's clock has it: the clocks of two machines are never compared
ASK_S = 0.5


def owner(candidate, num_islands):
    """The island that a candidate belongs to: all of a family, which shares its trunk, to one.

    What islands score is therefore different without a word between them.
    """
    if num_islands == 1:
        return 0
    trunk = (candidate.stem, *candidate.widths[:-1], *candidate.depths[:-2])
    return zlib.crc32(repr(trunk).encode()) % num_islands


class Claim:
    """An island that this driver holds."""

    def __init__(self, study, trial_id, number, island, *, was_finished=False):
        self.study, self.trial_id, self.number, self.island = study, trial_id, number, island
        self.beats, self.was_finished = 0, was_finished

    def beat(self):
        """Give a sign of life. UserError where another driver has taken the island over meanwhile."""
        self.beats += 1
        try:
            self.study._storage.set_trial_user_attr(self.trial_id, "signs of life", self.beats)
        except UpdateFinishedTrialError:
            raise UserError(
                f"{_named(self.island)} was taken over by another driver, because this one was silent for "
                f"{LEASE_S:.0f} s; "
                "what was computed is kept; give the same command again to go on beside it"
            ) from None

    def is_first(self):
        """Whether no driver that lives began before this one."""
        return (
            min(one.number for one in _running(self.study) if isinstance(one.user_attrs["island"], int)) == self.number
        )

    def release(self, *, finished, num_scored):
        """Give the island back: finished, to go on with, or (None) as it was. One that was taken over is another's
        already.
        """
        if self.was_finished if finished is None else finished:
            self.study.tell(self.number, float(num_scored), skip_if_finished=True)
        else:
            self.study.tell(self.number, state=TrialState.FAIL, skip_if_finished=True)


def claim(study, num_islands, *, say, token=None):
    """A Claim on a free island of the study `NAME drivers`, best one whose driver left it unfinished.

    Waits while every island is held, as long as one of the holders may be dead. UserError where all of them live.
    token: a text of this claim's own; with the same one it may be asked for again after a connection was lost.
    """
    token = token or uuid.uuid4().hex
    seen, told, begun = {}, False, time.monotonic()
    while True:
        held = take_back(study, seen, say=say, token=token)
        free = [island for island in range(num_islands) if island not in held]
        if free:
            # What was left unfinished first; of finished ones, which may be extended, the one that was held longest
            # ago.
            last = _last_held(study)
            island = min(free, key=lambda one: (_is_finished(last, one), last[one].number if one in last else -1, one))
            if (made := _try(study, island, token)) is not None:
                return made
            continue
        held = {island: trial for island, trial in held.items() if isinstance(island, int)}
        drivers = ", ".join(
            f"island {island} by process {trial.user_attrs['process']} on {trial.user_attrs['host']}"
            for island, trial in sorted(held.items())
        )
        if time.monotonic() - begun > LEASE_S + 2 * BEAT_S:
            raise UserError(
                f"the study has {num_islands} island(s), and a driver works on each: {drivers}; wait for one to end"
            )
        if not told:
            say(f"held: {drivers}; waiting up to {LEASE_S + 2 * BEAT_S:.0f} s, in case its driver has died")
            told = True
        time.sleep(ASK_S)


def turn(study, what, *, say, seen, token=None):
    """A Claim on something that one driver at a time does, once those before it are done. token: as in `claim`."""
    told, token = False, token or uuid.uuid4().hex
    while True:
        held = take_back(study, seen, say=say, token=token)
        if what not in held:
            if (made := _try(study, what, token)) is not None:
                return made
        elif not told:
            here = held[what].user_attrs
            say(f"waiting for the {what} of another island (process {here['process']} on {here['host']})")
            told = True
        time.sleep(ASK_S)


def take_back(study, seen, *, say, token=None):
    """{island: trial} of the claims whose drivers live; those of dead ones are ended. `seen` is what this function
    remembers.

    token: of the caller's own claim, which does not count.
    """
    held, running, now = {}, _running(study), time.monotonic()
    # Nobody was looking, or the store was away and no sign of life could reach it: all get their time anew.
    if now - seen.get("looked", now) > LEASE_S / 2:
        seen.clear()
    seen["looked"] = now
    for trial in running:
        island, here = trial.user_attrs["island"], trial.user_attrs
        if token is not None and here.get("token") == token:
            continue
        beats, since = seen.get(trial.number, (None, None))
        if beats != here.get("signs of life"):
            seen[trial.number] = (here.get("signs of life"), time.monotonic())
        silent = since is not None and beats == here.get("signs of life") and time.monotonic() - since > LEASE_S
        lives = _lives(here)
        if lives is False or (lives is None and silent):
            try:
                study._storage.set_trial_user_attr(trial._trial_id, "taken back", "its driver gave no sign of life")
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except UpdateFinishedTrialError:  # another driver was as quick, perhaps between these two lines
                continue
            say(f"{_named(island)}: its driver (process {here['process']} on {here['host']}) has died; taken back")
        else:
            held.setdefault(island, trial)
    return held


def driverless(study, num_islands):
    """Islands that nobody works on and that are not finished."""
    held = {trial.user_attrs["island"] for trial in _running(study)}
    last = _last_held(study)
    return [one for one in range(num_islands) if one not in held and not _is_finished(last, one)]


def _try(study, island, token):
    # One that was begun before a connection was lost, and of which nobody heard.
    before = [trial for trial in _running(study) if trial.user_attrs.get("token") == token]
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
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=mine | {"signs of life": 0}))
    rivals = [trial for trial in _running(study) if trial.user_attrs["island"] == island]
    first = min(rivals, key=lambda trial: trial.number)
    ours = next(trial for trial in rivals if trial.user_attrs.get("token") == token)
    if first.number == ours.number:
        was_finished = _is_finished(_last_held(study), island)
        study._storage.set_trial_user_attr(ours._trial_id, "held", True)
        return Claim(study, ours._trial_id, ours.number, island, was_finished=was_finished)
    study.tell(ours.number, state=TrialState.FAIL, skip_if_finished=True)
    return None


def _named(island):
    return f"island {island}" if isinstance(island, int) else f"the {island} of an island"


def _running(study):
    return study.get_trials(deepcopy=False, states=[TrialState.RUNNING])


def _is_finished(last, island):
    return island in last and last[island].state == TrialState.COMPLETE


def _last_held(study):
    """{island: the last claim on it that counted}."""
    trials = study.get_trials(deepcopy=False)
    return {one.user_attrs["island"]: one for one in trials if one.user_attrs.get("held")}


def _lives(here):
    """Whether the process of a claim lives; None where that cannot be known, because it ran in another place."""
    if here["place"] != _place():
        return None
    born = _born(here["process"])
    return born is not None and born == here["born"]


def _place():
    """What two processes share that see each other: machine, boot and space of process numbers."""
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
