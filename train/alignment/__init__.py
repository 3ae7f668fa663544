"""Post-training: from a pre-trained model to one that does as asked."""
