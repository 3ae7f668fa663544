"""Superposition: a toy model that stores more features than it has dimensions.

toy.py     the model, its loss and its training, many models at a time
phases.py  the instrument: features represented against sparsity, W^T W, and the phase diagram
"""
