"""The Front of a search: which scored candidates no other of their band beats in both score and predicted latency."""

from zennas.search.bands import Bands
from zennas.search.scored import Row, Rows


class Front:
    """Grows with what is scored. A row counts by its score and by the table's own prediction."""

    def __init__(self, rows: Rows, bands: Bands):
        """rows: what was scored before."""
        self._bands, predicted_N, ranked_N = bands, rows.column("predicted_ms"), rows.ranked()
        self._points: list[list[tuple[float, float]]] = [[] for _ in bands.bands]  # of each band (score, ms)
        fastest_ms = [float("inf")] * len(bands.bands)
        # Highest score first: a row is on the front where it is the fastest so far.
        for at, band in zip(ranked_N, bands.of(rows.genes_NG[ranked_N]), strict=True):
            if predicted_N[at] < fastest_ms[band]:
                fastest_ms[band] = float(predicted_N[at])
                self._points[band].append((float(rows.score_N[at]), fastest_ms[band]))

    def take(self, rows: list[Row]) -> list[Row]:
        """Take rows in that have a score; those of them that are on the front now."""
        bands = self._bands.of([row.genes for row in rows])
        taken = [
            (row, band)
            for row, band in zip(rows, bands, strict=True)
            if self._add(self._points[band], row.score, row.predicted_ms)
        ]
        # A row that came later in the same call may have beaten one that was let in.
        return [row for row, band in taken if (row.score, row.predicted_ms) in self._points[band]]

    @staticmethod
    def _add(points, score, predicted_ms):
        if any(other >= score and ms <= predicted_ms for other, ms in points):
            return False
        points[:] = [(other, ms) for other, ms in points if not (score >= other and predicted_ms <= ms)]
        points.append((score, predicted_ms))
        return True
