"""Images in: sources, decoding, the preprocessing contract, splits, copies, batches, augmentation."""
