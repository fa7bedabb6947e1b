"""Helpers for configs, errors, files, processes and devices."""
