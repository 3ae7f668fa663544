"""Results of evaluations for a person: tables of the terminal, and a page that colours every token by its loss."""
