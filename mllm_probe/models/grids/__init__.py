"""Which place of a picture each of its tokens stands for: measured, and not known of any family."""
