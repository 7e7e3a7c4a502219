"""The model as `mlflow models serve` takes it: from this file, with the saved model beside it."""

import mlflow
from mlflow.pyfunc import PythonModel

from benchmarks.servers.model import Model


class Served(PythonModel):
    def load_context(self, context):
        self.model = Model(context.artifacts["model"])

    def predict(self, context, model_input, params=None):  # noqa: ARG002  (its interface)
        frame = model_input.copy(deep=False)
        for name in frame.columns:
            if name in self.model.texts:
                frame[name] = frame[name].astype(object).fillna(self.model.null)
            else:
                frame[name] = frame[name].astype(float)
        return self.model.probabilities(frame)


mlflow.models.set_model(Served())
