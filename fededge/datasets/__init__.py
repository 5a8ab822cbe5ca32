"""The public data sets: readers of the publishers' own formats, and where the files come from.

One module a data set. Each reads what is in the file and no more: nothing is scaled, filled in, windowed or put in
another order. Clients are whom the file names, so ids have gaps, and any subset of a data set's clients can be read.
The arrays are shared between callers and cannot be written to.
"""
