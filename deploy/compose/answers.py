"""Whether an address answers 200: the health check of an image that has no curl."""

import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

address = urlsplit(sys.argv[1])
connection = HTTPConnection(address.netloc, timeout=4)
try:
    connection.request("GET", address.path)
    status = connection.getresponse().status
except OSError as error:
    sys.exit(f"{sys.argv[1]} does not answer: {error}")
sys.exit(0 if status == 200 else f"{sys.argv[1]} answered {status}")
