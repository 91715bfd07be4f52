"""A soak: the real service for minutes under mixed load, with providers, Redis and clients that misbehave, and what must hold after it.

`provider.py` plays the providers and keeps books of what it was asked; `stage.py` starts Redis, providers and gateway; `clients.py` asks,
`answers.py` looks whether what came is right in form; `laws.py` and `money.py` say what must hold. `__main__.py` plays it.
"""
