"""The coordinate check of a parametrisation: activations against width and depth after a few steps.

check.py     which models are measured, and what their slopes say
measure.py   activations of one model before and after a few steps
words.py     the table in the terminal
page.py      the page, with charts.py
"""
