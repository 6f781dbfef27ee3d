"""The command line: which commands there are, how their jobs start and end, errors as sentences."""
