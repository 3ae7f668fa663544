"""Requests of the interface: their parameters, each checked by name, as jobs of the engine."""
