"""Sugar (Chow et al. 2024): alignment kernels over interleaved pictures and texts, as a measurement and as a loss."""
