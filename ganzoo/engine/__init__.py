"""What every model shares: the clock, the iteration, checkpoints, checks before the first step."""
