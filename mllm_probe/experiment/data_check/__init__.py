"""What a run would make of data: read by the code of a run, so that the two cannot differ. Loads no model."""
