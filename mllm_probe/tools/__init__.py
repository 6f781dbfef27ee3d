"""Plain commands beside the stages: they compose no configuration and load no model."""
