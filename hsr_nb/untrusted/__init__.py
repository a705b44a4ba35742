"""Hostile bytes become plain data here, and nothing in them is executed."""
