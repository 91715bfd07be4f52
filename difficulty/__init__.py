"""How hard a prompt is for each backend: the probe, the belief, and what is learned from logs. Knows no policy and no backend."""
