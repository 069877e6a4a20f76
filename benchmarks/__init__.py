"""What `make bench` runs: rows of figures, each measured beside its peers, kept in a file of its own until its code or settings change.

    python -m benchmarks list                     every row: what is wanted of it, and whether it is measured
    python -m benchmarks run                      what is not measured, or has changed since; `make bench` does this
    python -m benchmarks run gowalla throughput   these, whether or not they have changed
    python -m benchmarks run --smoke gowalla      tiny settings, to see that it works; nothing is kept
    python -m benchmarks data gowalla             only the files that its recipes read, for `twotower train benchmarks/recipes/gowalla.toml`
    python -m benchmarks validate gowalla --set train.epochs=3    a recipe on its validation pairs; the test pairs stay closed
    python -m benchmarks render                   write RESULTS.md anew

A row is a module under `rows/` with a function `measure` and its entry in `rows.ROWS`; the settings of ours are the TOML files under
`recipes/`, peers are the scripts under `peers/`, each run by a Python of its own environment (`make .bench/NAME/.installed`) on the
same two threads. What a peer answers, vectors or scores, is ranked by our evaluation. Real data that may not ship are looked for in
`../shared/data`, or where TWOTOWER_DATA says; without them a row is skipped.
"""
