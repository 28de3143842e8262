"""All of zennas and the third parties it imports, but Ray: what the fork server of tests/processes.py loads, once."""

import gc
import importlib
import pkgutil
import sys

import torch._dynamo  # the first optimizer imports it, in a second
import torch.utils.tensorboard  # noqa: F401

import zennas

# Ray reads its environment once, when it is imported: each process imports it by itself, in an environment of its own.
sys.modules["ray"] = None
for module in pkgutil.walk_packages(zennas.__path__, "zennas."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
del sys.modules["ray"]
gc.collect()
gc.freeze()  # as tests/conftest.py does
