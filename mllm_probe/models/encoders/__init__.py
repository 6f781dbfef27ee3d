"""Stand-alone encoders of pictures and sentences."""
