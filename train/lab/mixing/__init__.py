"""How the models of a sweep mix tokens: how far back they look, and their speed against the length of a row.

reach.py    the gradient of a token's loss by the embeddings of tokens before it, against the distance
lengths.py  the seconds of a forward and backward pass against the length of rows with as many tokens in all
"""
