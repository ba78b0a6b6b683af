"""Metrics of generated images: one metric a file; `suite.Suite` computes several in one pass."""
