"""Post-training, one method a file, on instructions whose right answers are known."""
