"""Results: rows, tables, plots, and the files they are written to."""
