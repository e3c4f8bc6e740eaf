"""Standings of many models on many datasets: ranks with intervals, as a table, a page and files."""
