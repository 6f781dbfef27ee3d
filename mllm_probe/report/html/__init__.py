"""report.html and inspect.html."""
