"""Prints a table as Markdown, LaTeX, HTML or CSV. What is printed is laid out once: see layout.py."""
