"""The ablation lab: runs that differ in one thing, and what their differences show."""
