"""Trains autoencoders on the activations of a run's model.

settings.py  the options         stream.py    batches of activations, a pure function of their number
state.py     arrays and places   step.py      one update
measures.py  evaluation          loop.py      the loop
folder.py    what it writes      sae_lens.py  the files of SAELens
report.py    the page            train.py     the instrument of launch.inspect
"""
