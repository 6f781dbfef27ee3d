"""What travels between the rooms, from a picture to a score."""
