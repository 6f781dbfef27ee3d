"""What makes a vision encoder fit for a multimodal model: scores of its features. Knows no config and no cache."""
