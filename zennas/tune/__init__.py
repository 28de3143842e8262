"""The comprehensive search over cleaning, loss and backbone: the command `tune`."""
