"""Miniature data sets that are drawn on the spot, and the change of a config to use one."""
