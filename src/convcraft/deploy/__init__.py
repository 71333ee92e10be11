"""A trained network leaves the lab: bundles, formats, runtimes, compression."""
