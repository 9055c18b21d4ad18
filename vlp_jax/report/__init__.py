"""Draws and prints results: tables, plots, heat maps, contact sheets, pages."""
