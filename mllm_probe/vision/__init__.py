"""Vision representations compared by what an MLLM makes of them: alignment, correspondence, what else formulas tell of
features, and the law that joins A and C.

Numbers in, numbers out: prints, draws and writes nothing.
"""
