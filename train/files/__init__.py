"""Files and paths, on this machine and in stores.

files.py   the one place that replaces files at one instant, locks and syncs
forms.py   forms of the JSON that is read
paths.py   paths of this machine and of stores: the one door
remote.py  reads files of a store
spool.py   a run in a store: written here and uploaded
"""
