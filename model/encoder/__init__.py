"""The encoder of a source, which the layers of a decoder read by cross-attention.

option.py is the part of a config, module.py the layers of the encoder, both_ways.py a recurrence in both directions;
cross.py is the cross-attention of a layer of the decoder, additive.py that of recurrent decoders before it; source.py
has the arrays that a pass is given and hands to its layers, cache.py what decoding keeps of them.
"""
