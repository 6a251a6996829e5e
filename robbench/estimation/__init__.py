"""p*: the published binary search, the shrinking ball, attacks at fixed radii, and the audit of them."""
