"""Features: directions that a model computes with, found by sparse autoencoders and transcoders.

autoencoders/  an architecture a file, and the file format of SAELens
training/      the stream of activations, the step, the loop and the folder
"""
