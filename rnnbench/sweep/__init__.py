"""A sweep, from the words of its command to the records of its jobs.

Its modules; each imports only modules on the lines above it, or before it on its line:

    hydra_api, hydra_settings                    Hydra's private names; which of its settings have a use here
    points                                       the points of a grid, from its words
    arguments, own_options, groups, repairs      the words of a command line
    explain, overrides                           what is wrong with them, in one message
    template, compose, swept_options             the configs of jobs; keys that some options lack
    job, placing, hydra_jobs                     jobs, their folders, what Hydra does around a job
    preflight, engine_checks, dry_run            checks before anything is made, the plan of a sweep
    snapshots, recorder, scheduler               training, and records of it
    reuse, session                               records of earlier sweeps, an open sweep folder
    stages                                       imports what needs torch, when it is reached
    launcher, grid, plan                         Hydra's launcher and sweeper; the trials of a command
"""
