"""The server that ours runs on, doing nothing: it reads the body and answers the same each time."""

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

ANSWER = (
    b'{"label":0,"probability":0.31234567890123456,"model_version":"1",'
    b'"prediction_id":"00000000-0000-7000-8000-000000000000"}'
)


async def predict(request):
    await request.body()
    return Response(ANSWER, media_type="application/json", headers={"cache-control": "no-store"})


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
