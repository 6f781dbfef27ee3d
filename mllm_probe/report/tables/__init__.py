"""What results say in words and in tables, for page, paper and terminal alike."""
