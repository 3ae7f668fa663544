"""Instruments for models that were trained on one generated task: what they compute, beside what they should.

fourier.py  modular addition: the waves in the embedding and in the logits
markov.py   Markov chains in context: where each head attends, and what the loss is without it
task.py     the task of a run, or the refusal of another
"""
