"""Everything a person looks at: grids, curves, pages."""
