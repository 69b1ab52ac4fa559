"""JupyterLab's panels: train live, look inside, compare, browse the store, export it."""
