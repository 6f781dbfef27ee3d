"""What `features` makes of the layers of a vision tower, one file a feature; its controls."""
