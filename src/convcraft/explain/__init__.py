"""Heat maps: which pixels of an image speak for a class, one method per file."""
