"""Experiments: many runs from one file, and tables and figures of what they reached."""
