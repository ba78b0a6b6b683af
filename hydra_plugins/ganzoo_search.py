"""Where Hydra looks for sweepers. It accepts none from other packages."""

from ganzoo.runs import search


class Search(search.Search):
    """`hydra/sweeper=search`: see `ganzoo.runs.search`."""
