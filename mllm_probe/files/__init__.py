"""Names of files and folders, their contents and checks, status records."""
