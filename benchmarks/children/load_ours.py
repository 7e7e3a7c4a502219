"""One load of the activity by Gristmill; prints seconds and memory."""

import json
import sys
import time
from pathlib import Path

from benchmarks import data
from benchmarks.children import greatest_memory
from gristmill.bucket.bucket import open_bucket
from gristmill.loading.load import Pending, load_files
from gristmill.project.table import ALL
from gristmill.settings import read_amazon_settings
from gristmill.warehouse.connection import Warehouse

url, source, name = sys.argv[1:]
table = getattr(data, name)
bucket = open_bucket(source, root=Path.cwd(), options=read_amazon_settings(Path.cwd()).as_mapping())
started = time.monotonic()
pending = Pending(table=table, period=ALL, item=bucket.stat(table.path))
load_files([pending], bucket, Warehouse(url=url), again=True, progress=lambda _: None)
seconds = time.monotonic() - started
memory = greatest_memory()
print(json.dumps({"seconds": seconds, "megabytes": memory}))
