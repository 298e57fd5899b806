"""Making networks: synthetic volumes with known truth, a training loop, the bundled models."""
