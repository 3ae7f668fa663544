"""The page of a result: a template, the look of its parts, and a file of JavaScript for each widget."""
