"""An interactive look at a run: what is computed for it, and the page that shows it."""
