"""Looks inside a model: what its heads attend to, how its stream becomes logits, which activations cause an output.

table.py      the instruments and their flags: an instrument is a row, and a module with a function `inspect`
subject.py    the model that is looked into, and functions of its tokens that run on its mesh
source.py     the source of a model with an encoder, and this encoder alone
text.py       a text as the tokens that an instrument looks at
result.py     the result of an instrument, and the three files that it writes
page/         the page of a result: one template, and widgets of JavaScript
vocabulary/   tokens, and their vectors
attention/    maps of attention, the roles of heads
features/     autoencoders of features, their pages, pages of neurons
superposition/, probes/, modular/    toy models, linear probes, the waves of modular addition
stream/       the residual stream: lenses, shares of a logit, norms
causes/       replaced activations: ablation, patching, steering

Each instrument is a function of a loaded run; `python -m launch.inspect` calls it with flags.
"""
