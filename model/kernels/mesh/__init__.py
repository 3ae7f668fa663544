"""Attention on several devices: the arrays of each device, and keys that travel in a ring."""
