"""BentoML, the model as a service of its own; no record."""

import bentoml

from benchmarks.servers.model import load


@bentoml.service(workers=1)
class Predictions:
    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(route="/predict")
    def predict(self, idx: int, features: dict) -> dict:  # noqa: ARG002  (part of the request)
        return self.model.answer(features)
