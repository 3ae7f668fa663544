"""The page of a scaling law: its fits, its curves, its predictions."""
