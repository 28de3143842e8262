"""What else a candidate may cost, beside its latency here: megabytes, multiply-accumulates, time on another device."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from zennas.latency.table import LatencyTable
from zennas.latency.tables import open_table
from zennas.records import UserError
from zennas.search.optimum import Constraint
from zennas.space.candidate import Candidate
from zennas.space.cost import part_cost
from zennas.space.parts import Part, parts_of, sums
from zennas.space.space import Space
from zennas.track import SearchPlan, Track


class CostLimit(NamedTuple):
    """A limit on a cost that is a sum over a candidate's parts."""

    name: str  # with its unit
    of_part: Callable[[Part], float]  # its share of the cost
    most: float
    device: str | None = None  # the latency device whose milliseconds they are
    is_measured: bool = False  # there, on every finalist; else by its table alone
    factor: float = 1.0  # by which the sum is corrected, as measurements there have it

    def corrected(self, factor: float) -> "CostLimit":
        """The same limit, its sum corrected by this factor."""
        return self._replace(factor=factor)

    @property
    def text(self) -> str:
        """The limit in words."""
        how = ""
        if self.device is not None:
            how = ", measured there" if self.is_measured else ", by its table, which no measurement here corrects"
        return f"at most {self.most:g} {self.name}{how}"

    def of(self, candidate: Candidate, space: Space) -> float:
        """What a candidate of the space costs."""
        parts = parts_of(candidate, space.shape)
        return self.factor * sum(times * self.of_part(part) for part, times in parts.items())


def cost_limits(
    track: Track,
    plan: SearchPlan,
    space: Space,
    *,
    tables: dict[str, LatencyTable] | None = None,
    later: Iterable[str] = (),
) -> list[CostLimit]:
    """[CostLimit] of a run, beside its own latency. UserError where a device's table is not known or lacks parts of the
    space.

    tables: {name: LatencyTable} of the devices that are there to measure on; those of others are looked up.
    later: names of devices to leave out, whose tables are not measured yet.
    """
    limits_mb = [most for most in (track.limits.max_mb, plan.max_mb) if most is not None]
    limits = [CostLimit("MB", _megabytes, min(limits_mb))] if limits_mb else []
    if plan.max_gmacs is not None:
        limits.append(CostLimit("GMACs", _gmacs, plan.max_gmacs))
    for name, most_ms in plan.devices.items():
        if name in later:
            continue
        measured = (tables or {}).get(name)
        try:
            table = measured or open_table(name)
        except UserError as error:
            raise UserError(f"--also {name}: {error}; or a node of the cluster carries latency_device:{name}") from None
        missing = table.missing_for(space)
        try:
            for part in missing:
                table.part_ms(part)
        except KeyError:
            raise UserError(
                f"--also {name}: its table lacks {len(missing)} of the parts of space {space.name}; fill it on that "
                f"machine with: python -m zennas.latency --table --space {space.name}, and import it again"
            ) from None
        limits.append(CostLimit(f"ms on {name}", table.part_ms, most_ms, device=name, is_measured=measured is not None))
    return limits


def constraints(limits: Iterable[CostLimit], space: Space) -> list[Constraint]:
    """The limits as branch and bound takes them: on the uncorrected sums over a space, as far as corrections allow."""
    return [Constraint(limit.name, sums(space, limit.of_part), limit.most / limit.factor) for limit in limits]


def check_limits(limits: Iterable[CostLimit], space: Space) -> None:
    """UserError where not even the cheapest candidate of the space keeps a limit."""
    cheapest = space.cheapest()
    for limit in limits:
        if (least := limit.of(cheapest, space)) > limit.most:
            raise UserError(
                f"the limit of {limit.most:g} {limit.name} is below the cheapest candidate of space {space.name}: "
                f"{cheapest.text} has {least:.3g}; give more, or another --space"
            )


def _megabytes(part):
    return part_cost(*part).megabytes


def _gmacs(part):
    return part.macs / 1e9
