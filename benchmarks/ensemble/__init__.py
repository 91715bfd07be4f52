"""Are several models together worth more than one of them?

`recorded.py` reads the sets, `world.py` learns from them and plays plans, `figures.py` judges pools, `page.py` writes it down.
`__main__.py` runs it.
"""
