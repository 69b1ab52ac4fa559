"""What the runs say: statistics over seeds, published numbers and claims, trials of a search. Takes DataFrames."""
