"""A cheap model or a dear one, decided before the first call, from the prompt alone.

`pairs.py` reads the recordings, `methods.py` scores their prompts, `figures.py` judges the scores, `limits.py` asks what an estimate would
have to know to do better, `page.py` writes it down. `__main__.py` runs it.
"""
