"""The first rows of the activity by pandas, as people do it; prints seconds and memory."""

import json
import sys
import time

import pandas as pd
from sqlalchemy import create_engine, text

from benchmarks.children import greatest_memory

url, path, rows = sys.argv[1:]
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
started = time.monotonic()
frame = pd.read_csv(path, nrows=int(rows), parse_dates=["valid_from", "valid_to"])
with engine.begin() as connection:
    frame.to_sql("activity_pandas", connection, schema="public", if_exists="replace", index=False)
    connection.execute(text("ALTER TABLE public.activity_pandas ADD PRIMARY KEY (idx, valid_from)"))
seconds = time.monotonic() - started
memory = greatest_memory()
with engine.begin() as connection:
    connection.execute(text("DROP TABLE public.activity_pandas"))
print(json.dumps({"seconds": seconds, "megabytes": memory}))
