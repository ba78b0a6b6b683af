"""Several processes: the strategy, collectives, clusters."""
