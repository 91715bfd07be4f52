"""Continuous batching of a causal language model: the answers of all callers are decoded together, one token at a time.

`worker.py` is the thread and its turn; `batch.py` the rows under way; `window.py` their key-value cache; `model.py` the model's two
calls; `sampling.py` the draw of a token; `jobs.py` what was asked and what has come of it; `text.py` how tokens become text;
`chat.py` how a conversation becomes tokens. `adapters/local.py` is the only user. Everything here but `text.py` and `jobs.py`
imports torch.
"""
