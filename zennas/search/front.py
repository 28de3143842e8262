"""The Front of a search: which scored candidates no other beats in both score and predicted latency."""

from zennas.search.scored import Row, Rows


class Front:
    """Grows with what is scored. A row counts by its score and by the table's own prediction."""

    def __init__(self, rows: Rows):
        """rows: what was scored before."""
        self._points: list[tuple[float, float]] = []  # (score, ms)
        fastest_ms, predicted_N = float("inf"), rows.column("predicted_ms")
        for at in rows.ranked():  # highest score first: a row is on the front where it is the fastest so far
            if predicted_N[at] < fastest_ms:
                fastest_ms = float(predicted_N[at])
                self._points.append((float(rows.score_N[at]), fastest_ms))

    def take(self, rows: list[Row]) -> list[Row]:
        """Take rows in that have a score; those of them that are on the front now."""
        taken = [row for row in rows if self._add(row.score, row.predicted_ms)]
        # A row that came later in the same call may have beaten one that was let in.
        return [row for row in taken if (row.score, row.predicted_ms) in self._points]

    def _add(self, score, predicted_ms):
        if any(other >= score and ms <= predicted_ms for other, ms in self._points):
            return False
        self._points = [(other, ms) for other, ms in self._points if not (score >= other and predicted_ms <= ms)]
        self._points.append((score, predicted_ms))
        return True
