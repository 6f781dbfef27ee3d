"""The words that picture tokens stand for, judged by masks."""
