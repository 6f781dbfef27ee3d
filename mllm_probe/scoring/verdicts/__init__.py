"""Layers compared with each other, with chance and with controls: the rows of tests.csv."""
