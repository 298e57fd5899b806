"""Arrays in, arrays out: prepare, run the network, finish. torch; no Dask, no stores."""
