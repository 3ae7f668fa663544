"""Modular addition: how a model that has grokked it computes with waves.

fourier.py  the instrument
"""
