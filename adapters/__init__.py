"""Everything outside the process, one file each: model backends, verifiers, caches. Knows neither policies nor the router."""
