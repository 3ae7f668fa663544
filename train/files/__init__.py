"""Files and paths, on this machine and in stores.

files.py   the one module that replaces files atomically, locks and syncs
schema.py  checks JSON values against a schema
paths.py   the one module that reads paths of this machine and of stores
remote.py  reads files of a store
spool.py   a run in a store: written on this machine and uploaded
"""
