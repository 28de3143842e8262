"""What stands beside winners, in words."""

from zennas.search.beside import mirrored_sentence
from zennas.search.measured import MirroredLatency


def test_a_mirror_image_in_words(make_entry, space):
    baseline = next(iter(space.baselines.values()))
    assert mirrored_sentence([make_entry(baseline)]) is None

    def priced(times):
        taken = make_entry(baseline).latency
        kept = {name: getattr(taken, name) for name in ("raw_ms", "protocol", "machine", "date", "load_average")}
        latency = MirroredLatency(measured_ms=2.0, spread_pct=1.0, times=times, **kept)
        return make_entry(baseline, mirrored=latency)

    assert "takes 1.91 to 2.05 times as long" in mirrored_sentence([priced(2.05), priced(1.91)])
    assert "measured on 1 network(s)" in mirrored_sentence([priced(2.0)])
