"""What happens besides training: one callback per file."""
