"""The five articles' systems: as written, with what is wrong in them, and repaired."""
