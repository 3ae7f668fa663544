"""Continuous batching: requests join and leave between steps of the device, and share one cache of pages.

`engine.Engine` is the entry; its docstring says which results are exact. scheduler.py decides what a step reads,
page_pool.py counts references to pages, device_state.py and programs.py are the compiled side.
"""
