"""What is changed inside a model, condition by condition: edges cut, states moved, replaced or erased; no model."""
