"""What the plain commands print that show no result: how caches and jobs are."""
