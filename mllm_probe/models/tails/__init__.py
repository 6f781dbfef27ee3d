"""Interventions at the price of their tails: what stands before the text is computed once for each picture."""
