"""The laboratory: sweeps, their statistics and reports, scaling, and the checks of parametrisations."""
