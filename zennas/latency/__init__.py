"""How fast, measured: protocols, backends, the table of block latencies, and budgets that travel between machines."""
