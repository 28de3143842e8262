"""The latency table of a search: measured side by side where locks keep the timing alone, else one part at a time."""

import types

import pytest

from zennas.latency.table import LatencyTable, measure_part
from zennas.progress import silent
from zennas.search import prepare
from zennas.track import Protocol

CPU = Protocol(backend="onnxruntime-cpu")


@pytest.fixture
def filled(space, tmp_path, monkeypatch):
    """filled(protocol, local=, trouble=, failing=) -> (how each part was measured, the LatencyTable)."""
    parts = LatencyTable(CPU, folder=tmp_path / "none").missing_for(space)[:10]

    def fill(protocol=CPU, *, local=True, trouble=None, failing=None):
        how, table = [], LatencyTable(protocol, folder=tmp_path / "tables")
        taken = types.SimpleNamespace(machine=table.machine, raw_ms=(1.0,), spread_pct=0.0, versions={}, date="today")

        def at_once(function, calls, *, measures):
            assert measures and function.func is measure_part and len(calls) <= prepare.PARTS_AHEAD * 2
            how.extend(["beside"] * len(calls))
            return [RuntimeError("no such part") if part == failing else (part.macs * 1e-6, taken) for part, _ in calls]

        def on_device(function, part, protocol, *, num_runs, device):
            how.append("alone")
            return part.macs * 1e-6, taken

        monkeypatch.setattr(prepare, "trouble", lambda: trouble)
        workers = types.SimpleNamespace(local=local, num_workers=2, at_once=at_once, on_device=on_device)
        plan = types.SimpleNamespace(table_runs=2)
        prepared = types.SimpleNamespace(space=space, progress=silent(), workers=workers, plan=plan)
        monkeypatch.setattr(table, "parts_for", lambda space: parts)
        try:
            prepare._fill_table(prepared, table)
        finally:
            fill.how, fill.table = how, table
        return how, table

    fill.parts = parts
    return fill


@pytest.mark.parametrize(
    "way, given",
    [
        ("beside", {}),
        ("alone", {"trouble": "only a Unix has the locks"}),
        ("alone", {"local": False}),
        ("alone", {"protocol": CPU.model_copy(update={"backend": "onnxruntime-cuda"})}),
    ],
)
def test_parts_are_measured_side_by_side_where_their_timing_is_alone(filled, way, given):
    how, table = filled(**given)
    assert how == [way] * len(filled.parts) and set(table.rows) >= set(filled.parts)


def test_a_part_that_cannot_be_measured_loses_none_of_those_beside_it(filled):
    failing = filled.parts[2]
    with pytest.raises(RuntimeError, match="no such part"):
        filled(failing=failing)
    assert len(filled.how) == 8 and set(filled.parts[:8]) - set(filled.table.rows) == {failing}
