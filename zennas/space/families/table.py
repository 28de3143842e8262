"""FAMILIES names every family. A candidate and a space know theirs by its name here."""

import math
from typing import Any

from zennas.records import UserError, suggestion
from zennas.space.blocks import check_block, stride_of
from zennas.space.candidate import Candidate
from zennas.space.families.chain import CHAIN
from zennas.space.families.family import BuiltNetwork, Family, Graph, Layout, Tree
from zennas.space.families.mgn import MGN
from zennas.space.families.single import SINGLE
from zennas.space.shape import Shape, px_text

FAMILIES: dict[str, Family] = {"chain": CHAIN, "mgn": MGN, "single": SINGLE}


def family_of(candidate: Any) -> Family:
    """The Family of a Candidate or a Space; UserError where FAMILIES has no such row."""
    if candidate.family not in FAMILIES:
        raise UserError(f"family '{candidate.family}' is not known; {suggestion(candidate.family, list(FAMILIES))}")
    return FAMILIES[candidate.family]


def check_known(candidate: Any) -> None:
    """UserError where the tables have no such family or no such block."""
    family_of(candidate)
    check_block(candidate.block)


def layout_of(candidate: Candidate, shape: Shape) -> Layout:
    """The Layout of a Candidate's network for a Shape; UserError where its stages cannot shrink such images."""
    divisor = divisor_of(candidate)
    if any(px % divisor for px in shape.hw):
        raise UserError(
            f"{candidate.text}: {divided(candidate)}; {px_text(shape.hw)} px do not allow it; allowed: multiples of "
            f"{divisor} px"
        )
    return family_of(candidate).layout(candidate, shape)


def divisor_of(member: Any) -> int:
    """By what the sides of the images of a Candidate or a Space must be divisible."""
    return family_of(member).divisor(member)


def tree_of(member: Any) -> Tree:
    """The ways through the networks of a Candidate or a Space."""
    return family_of(member).tree(member)


def divided(member: Any) -> str:
    """How the networks of a Candidate or a Space divide the image, in words: why not every size will do."""
    stride = stride_of(family_of(member).ends(member.block).stem)
    strides = max((way.strides for way in tree_of(member).ways), key=math.prod)
    stem = f"the stem divides the image by {stride}, " if stride > 1 else ""
    if set(strides) == {2}:
        return f"{stem}each of the {len(strides)} stages halves {'it' if stem else 'the image'}"
    return f"{stem}the stages divide {'it' if stem else 'the image'} by {', '.join(map(str, strides))}"


def graph_of(network: BuiltNetwork) -> Graph:
    """The Graph by which a network is exported and timed: the first of its family's."""
    return family_of(network.candidate).graphs(network)[0]


def layout_of_space(space: Any) -> Layout:
    """The Layout of all networks of a Space."""
    return family_of(space).layout(space, space.shape)
