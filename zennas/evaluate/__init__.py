"""How good: any network on any set, by the protocol that the set is known for."""
