"""From notebooks to a paper: executed, merged, rendered, with the provenance of all that it shows."""
