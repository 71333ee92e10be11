"""What differs between jobs: loss, targets, metrics, decoding. One file per task."""
