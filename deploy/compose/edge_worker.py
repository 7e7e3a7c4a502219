"""`airflow edge worker`, which lets the lines of its tasks out on its own standard output too.

The setting that Airflow has for it starts a new interpreter for each task: seconds, where a fork of
the worker takes a tenth of one.
"""

import sys
from functools import partial

from airflow.__main__ import main
from airflow.executors.base_executor import BaseExecutor

BaseExecutor.run_workload = partial(BaseExecutor.run_workload, subprocess_logs_to_stdout=True)
sys.argv = ["airflow", "edge", "worker", *sys.argv[1:]]
main()
