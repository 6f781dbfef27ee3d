"""Result files of `lens`."""
