"""One file per format: how a network is written in it, and how it is run without torch where the format allows."""
