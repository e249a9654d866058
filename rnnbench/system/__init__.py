"""Wraps the operating system: files, signals, limits on memory and cores, text for terminals."""
