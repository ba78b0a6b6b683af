"""Runs seen from outside: their names, states, lists, rankings, sweeps."""
