"""Stacks that train elsewhere: on the nodes of a cluster, for the process that holds the sweep folder.

A stack is sent as one file of JSON in the sweep folder, which lies on a disk that all nodes share. A worker,
`python -m rnnbench.cluster FILE`, trains it and writes the records of its jobs, as training here would;
the process that holds the folder reads the results from these. The two exchange nothing else.
"""

from rnnbench.cluster.base import RemoteLauncher, work_on
from rnnbench.cluster.stack_file import SentStack

__all__ = ["RemoteLauncher", "SentStack", "work_on"]
