"""All of zennas and the third parties it imports: what the fork server of tests/processes.py loads, once."""

import gc
import importlib
import pkgutil

import torch._dynamo  # the first optimizer imports it, in a second
import torch.utils.tensorboard  # noqa: F401

import zennas

for module in pkgutil.walk_packages(zennas.__path__, "zennas."):
    importlib.import_module(module.name)
gc.collect()
gc.freeze()  # as tests/conftest.py does
