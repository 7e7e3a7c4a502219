"""FastAPI as people write it: a typed request, a frame, the model; no record."""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.model import load

app = FastAPI()
model = load()


class Asked(BaseModel):
    idx: int
    features: dict[str, int | float | str | None]


class Answer(BaseModel):
    label: int
    probability: float


@app.post("/predict")
def predict(asked: Asked) -> Answer:
    return Answer(**model.answer(asked.features))
