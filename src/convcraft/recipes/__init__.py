"""Named, complete configurations, each with its source, command and measured result."""
