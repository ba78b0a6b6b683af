"""Functions of images seen: learning rates, the average, growth."""
