"""A run folder drawn as pictures and one self-contained HTML page."""
