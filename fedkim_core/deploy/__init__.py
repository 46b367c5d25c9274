"""A federation on separate machines: settings, keys, processes, and the log of what was sent."""
