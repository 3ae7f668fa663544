"""Linear probes: what a linear map of an activation tells, beside what it could learn by heart.

labels.py  the tasks, and the control task of each
linear.py  softmax regression on activations
probe.py   the instrument
"""
