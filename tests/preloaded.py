"""All of zennas and the third parties it imports, but Ray: what the fork server of tests/processes.py loads, once."""

import gc
import importlib
import pkgutil
import sys

import torch._dynamo  # the first optimizer imports it, in a second
import torch.utils.tensorboard  # noqa: F401

import zennas

# Ray reads its environment once, when it is imported: each process imports it by itself, in an environment of its own.
# Where it is there already (pytest imports this file, too, to look for doctests), it stays the module that it is.
before = sys.modules.get("ray")
sys.modules["ray"] = None
for module in pkgutil.walk_packages(zennas.__path__, "zennas."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
del sys.modules["ray"]
if before is not None:
    sys.modules["ray"] = before
gc.collect()
gc.freeze()  # as tests/conftest.py does
