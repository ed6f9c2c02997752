"""The demo's training program, in parts that benchmarks reuse.

`settings` says what is run, `data` and `networks` what is trained, `train` runs it in one process of a group,
`worker` is the program of such a process, and `launch` starts the group from outside. Needs the `demo` extra.
"""
