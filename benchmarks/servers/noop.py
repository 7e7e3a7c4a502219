"""The server that ours runs on, doing nothing: it reads the body and answers the same each time.

An ASGI application without any framework, which is the least that can be asked of it.
"""

ANSWER = (
    b'{"label":0,"probability":0.31234567890123456,"model_version":"1",'
    b'"prediction_id":"00000000-0000-7000-8000-000000000000"}'
)
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ANSWER)).encode()),
    (b"cache-control", b"no-store"),
]


async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})
