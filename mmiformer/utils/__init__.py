"""Command lines, configs, errors, files, the machine."""
