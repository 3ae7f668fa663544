"""Two runs side by side: differences in their setting, where they part, their curves, their final evaluation."""
