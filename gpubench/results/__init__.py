"""Results: rows, tables, figures, and their files."""
