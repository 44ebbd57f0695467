"""Which scans taught a model, and what was known of each: lineage, manifests of predictions."""
