"""What is allowed, and what is best: YAML in, next action out. Pure: no clock, no randomness, no I/O."""
