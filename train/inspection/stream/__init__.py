"""The residual stream: logits after every layer (lenses), the share of each part in a logit, norms.

readout.py     the last norm and the unembedding: whole as a lens, and linear for shares of a logit
parts.py       the parts of a logit by sublayer, by head and by neuron
lens.py        logit lens and tuned lens over a text
tuned.py       training of a tuned lens
attribution.py direct logit attribution
path.py        norms of the stream by layer, and the path of a logit from the embedding on
"""
