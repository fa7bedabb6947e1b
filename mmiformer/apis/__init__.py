"""Configs, models and predictions by name or file."""
