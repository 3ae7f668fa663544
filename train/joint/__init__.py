"""Several runs in one compiled program: their states are stacked, and the step is `jax.vmap` of that of one run.

groups.py     the runs that can train in one program, and the numbers that may differ between them
programs.py   the stacked state, and the step and the evaluation of all members at once
turns.py      threads that take turns: every member runs the ordinary loop until it asks for a program
training.py   trains the members, each in a run folder of its own
"""
