"""Winners -> trained networks: the command `train`."""
