"""What commands that read layers end with on the screen."""
