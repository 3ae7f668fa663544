"""Causes: the effect on the output when an activation is replaced.

replace.py      one compiled program that replaces a tap in rows: at layers, positions, heads
ablate.py       replaces by zero, by a mean, by activations of other text
patch.py        replaces in one text by the activations of another one, and estimates that by gradients
paths.py        the same along one path, from a head to the logits or to a later layer
steering.py     vectors from contrasting texts, added to the stream in generation
steer.py        makes such a vector

A replacement that cannot change anything is an error: a tap, layer, head or position that is not there, the same text
twice, an activation that is already equal.
"""
