"""Vision representations compared by what an MLLM makes of them: alignment, correspondence and the law that joins both.

Numbers in, numbers out: prints, draws and writes nothing.
"""
