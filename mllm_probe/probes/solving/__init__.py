"""How probes are fitted: the convex solver, descent, and what they share."""
