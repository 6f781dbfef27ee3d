"""Numbers about numbers: measures and intervals. Imports no probe and no model."""
