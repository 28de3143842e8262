"""What `zennas.data` was called in 0.1.0: scripts that import `zennas.faces.sources` or another of its files go on."""

import importlib
import sys
import warnings

DATA = ("image_set", "images", "index", "labels", "recordio", "shards", "sources", "stream")
MOVED = {name: f"zennas.data.{name}" for name in DATA} | {"pairs": "zennas.tasks.face.pairs"}

for _name, _where in MOVED.items():
    # Python looks here again once the parent is imported, so no folder of files is needed that only import.
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(_where)
_stream = importlib.import_module("zennas.data.stream")
_stream.FaceStream = _stream.image_stream  # type: ignore[attr-defined]
warnings.warn(
    "zennas.faces is zennas.data now, and zennas.faces.pairs is zennas.tasks.face.pairs: import from there",
    DeprecationWarning,
    stacklevel=2,
)
