"""The ablation lab: change one thing, run it fairly, and know whether it helped.

ablation.py    the value of a file in configs/ablations
draws.py       many variants at once: grids, random and log-uniform draws
variants.py    the experiment and the settings of every variant
hold.py        changes of size or length that make a quantity of all variants equal; knobs.py has the parts to change
search.py      the learning rate of every variant, by successive halving
sweep.py       a sweep from its file to its end; folder.py has its files and the states of its runs
live_table.py  the runs while they run
results.py     a finished or unfinished sweep as numbers; curves.py has those of a run
scales.py      the order of variants against that in a sweep of larger models
documents.py   losses of every document, measured on demand, for intervals over documents
statistics/    what the differences between runs show: functions of numbers alone
report/        the page and the tables
"""
