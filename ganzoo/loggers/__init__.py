"""Where numbers and pictures go: one logger a file."""
