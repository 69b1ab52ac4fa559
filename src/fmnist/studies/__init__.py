"""Questions and their answers' raw material: which runs a study needs, and the store that keeps them."""
