"""Every command uses these modules: flags and mistakes, output streams, signals, imports from the wrong folder."""
