"""What a person reads on a terminal: numbers, sizes and durations in words, and progress."""
