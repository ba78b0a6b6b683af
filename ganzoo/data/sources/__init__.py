"""One data set a file; each is a subclass of `ganzoo.data.source.Source`."""
