"""Pages of features and neurons: the texts at which each fires most, its logits, how often and how strongly it fires.

top_texts.py  collects them        effects.py   logits that a direction promotes and suppresses
widget.py     the part of a page   features.py  the instrument of an autoencoder's features
neurons.py    the instrument of the entries of a tap
"""
