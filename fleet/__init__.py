"""Outlay's embedded fleet: puzzles, two small language models, a reward model, and the recipe that trained them.

`puzzles.py` what is asked and how an answer is checked (no torch) · `phrasing.py` prompts to and from text · `split.py` which number
sets are for training · `tokens.py` the tokenizer · `data.py` endless training rows · `models.py` sizes and files · `sampling.py`
batched sampling · `train.py` the recipe's stages. Reached by the rest of the project through configuration only.
"""
