"""TensorZero's gateway as its PyPI package embeds it: run in the peer's own environment, it prints where it listens."""

import sys
import time

import openai
import tensorzero

client = openai.OpenAI(api_key="none")
tensorzero.patch_openai_client(client, config_file=sys.argv[1], async_setup=False)
print(client.base_url, flush=True)
while True:
    time.sleep(3600)
