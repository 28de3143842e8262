"""The whole way without hands: a search, then its best winner trained: the command `run`."""
