"""Names of files and folders, what they hold and whether it is whole, status records."""
