"""Where numbers and pictures go: one logger per file."""
