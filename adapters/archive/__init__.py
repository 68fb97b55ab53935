"""The archive: the clear columns of the log as Parquet, for analysts and for replays. Needs the extra `replay`.

    columns    what there is to see: the columns, made from the registry of events
    decoding   stored bytes to columns, compiled by numba
    building   the rows of a log to tables, a bucket at a time
    places     where files lie: a local folder or an object store
    archive    the archive itself: catching up, rebuilding, compacting, verifying, reading
    replay_columns, replay_cache
               a bucket as the facts that a replay runs over, and those kept for the next one
    recorded, certificate
               recorded decisions as words, and the certificate over columns made of the log

Nothing of pyarrow, numpy or fsspec is loaded before an archive is used, and nothing of numba before rows are decoded.
"""
