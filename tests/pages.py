"""Reports as the tests read them: the page without plotly's own source, and the figures on it."""

import base64
import json

import numpy as np
from plotly.offline import get_plotlyjs


def page_in(folder):
    """The text of report.html, alone in its folder, without plotly's own source, in which any word may stand."""
    assert [path.name for path in folder.iterdir()] == ["report.html"]  # no draft is left behind
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def figure(text, name):
    """(traces, layout) of one figure of the page, read back from its call of plotly."""
    decoder, at = json.JSONDecoder(), text.index("[", text.index(f'"{name}",'))
    traces, end = decoder.raw_decode(text, at)
    layout, _ = decoder.raw_decode(text, text.index("{", end))
    return traces, layout


def numbers(values):
    """The numbers of a trace, in float64."""
    if isinstance(values, dict):  # plotly's packed arrays
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).astype(float)
    return np.array(values, dtype=float)
