"""From a config to an experiment that is ready to extract and to sweep."""
