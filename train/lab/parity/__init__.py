"""Two configs that should compute the same: one set of parameters and one batch through both."""
