"""One request through all of it: the pipeline, the strategies, HTTP and the command line. `pipeline.py` is the file to read first."""
